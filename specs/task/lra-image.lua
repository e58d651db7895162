-- Settings of the Long Range Arena benchmark as the reference system trains it.
return {
  name = "lra-image",
  doc = "CIFAR-10 in grey, pixel by pixel",

  -- an example
  sequences = 1,
  vocab = 256,
  length = 1024, -- padded with token 0
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
  batch = 256,
  accumulate = 1,
  lr = 1e-4,
  weight_decay = 0,
  warmup = 175,
  steps = 50000,
  eval_every = 50,
  eval_batches = 20, -- of the dev stream, each time
}
