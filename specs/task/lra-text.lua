-- Settings of the Long Range Arena benchmark as the reference system trains it.
return {
  name = "lra-text",
  doc = "IMDb reviews read byte by byte: positive or negative",

  -- an example
  sequences = 1,
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
  batch = 32,
  accumulate = 1,
  lr = 1e-4,
  weight_decay = 0,
  warmup = 80,
  steps = 50000,
  eval_every = 500,
  eval_batches = 200, -- of the dev stream, each time
}
