-- Settings of the Long Range Arena benchmark as the reference system trains it; the rest is in specs/base/lra.lua.
return {
  name = "lra-retrieval",
  doc = "two papers read byte by byte: does one cite the other",
  base = "lra",

  sequences = 2,
  vocab = 512,
  length = 4096, -- padded with token 0
  classes = 2,
  batch = 16,
  lr = 2e-4,
  warmup = 800,
  eval_every = 1000,
  eval_batches = 300, -- of the dev stream, each time
}
