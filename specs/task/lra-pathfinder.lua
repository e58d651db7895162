-- Settings of the Long Range Arena benchmark as the reference system trains it.
return {
  name = "lra-pathfinder",
  doc = "32x32 pictures of dashed paths, pixel by pixel: are the two dots connected",

  -- an example
  sequences = 1,
  vocab = 512,
  length = 1024, -- padded with token 0
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
  batch = 128,
  accumulate = 1,
  lr = 2e-4,
  weight_decay = 0,
  warmup = 312,
  steps = 50000,
  eval_every = 500,
  eval_batches = 156, -- of the dev stream, each time
}
