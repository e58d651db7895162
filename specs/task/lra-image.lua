-- Settings of the Long Range Arena benchmark as the reference system trains it; the rest is in specs/base/lra.lua.
return {
  name = "lra-image",
  doc = "CIFAR-10 in grey, pixel by pixel",
  base = "lra",

  vocab = 256,
  length = 1024, -- padded with token 0
  classes = 10,
  batch = 256,
  warmup = 175,
  eval_every = 50,
  eval_batches = 20, -- of the dev stream, each time
}
