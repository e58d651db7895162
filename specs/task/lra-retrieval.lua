-- Settings of the Long Range Arena benchmark as the reference system trains it.
return {
  name = "lra-retrieval",
  doc = "two papers read byte by byte: does one cite the other",

  -- an example
  sequences = 2,
  vocab = 512,
  length = 4096, -- padded with token 0
  classes = 2,

  -- the model
  embed = 64,
  hidden = 128,
  heads = 2,
  head_dim = 32,
  layers = 2,
  tied = false,
  cls = false,
  dropout = 0.1,
  attention_dropout = 0.1,

  -- training
  batch = 16,
  accumulate = 1,
  lr = 2e-4,
  weight_decay = 0,
  warmup = 800,
  steps = 50000,
  eval_every = 1000,
  eval_batches = 300, -- of the dev stream, each time
}
