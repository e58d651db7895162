-- Settings of the Long Range Arena benchmark as the reference system trains it; the rest is in specs/base/lra.lua.
return {
  name = "lra-pathfinder",
  doc = "32x32 pictures of dashed paths, pixel by pixel: are the two dots connected",
  base = "lra",

  vocab = 512,
  length = 1024, -- padded with token 0
  classes = 2,
  batch = 128,
  lr = 2e-4,
  warmup = 312,
  eval_batches = 156, -- of the dev stream, each time
}
