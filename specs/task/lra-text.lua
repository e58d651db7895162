-- Settings of the Long Range Arena benchmark as the reference system trains it; the rest is in specs/base/lra.lua.
return {
  name = "lra-text",
  doc = "IMDb reviews read byte by byte: positive or negative",
  base = "lra",

  vocab = 512,
  length = 4096, -- padded with token 0
  classes = 2,
  batch = 32,
  warmup = 80,
  eval_batches = 200, -- of the dev stream, each time
}
