-- Settings of the Long Range Arena benchmark as the reference system trains it; the rest is in specs/base/lra.lua.
return {
  name = "lra-listops",
  doc = "ListOps: the value of a nested list operation, as long sequences",
  base = "lra",

  vocab = 32,
  length = 2048, -- padded with token 0
  classes = 10,
  batch = 32,
  warmup = 1000,
  eval_batches = 62, -- of the dev stream, each time
}
