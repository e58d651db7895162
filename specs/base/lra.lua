-- What tasks of the Long Range Arena benchmark share, as the reference system trains them. A task names this file
-- in its `base` and gives the rest, or another value.
return {
  -- an example
  sequences = 1,

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
  accumulate = 1,
  lr = 1e-4,
  weight_decay = 0,
  steps = 50000,
  eval_every = 500,
}
