-- Settings of the Long Range Arena benchmark as the reference system trains it.
return {
  name = "lra-listops",
  doc = "ListOps: the value of a nested list operation, as long sequences",

  -- an example
  sequences = 1,
  vocab = 32,
  length = 2048, -- padded with token 0
  classes = 10,

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
  warmup = 1000,
  steps = 50000,
  eval_every = 500,
  eval_batches = 62, -- of the dev stream, each time
}
