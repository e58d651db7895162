#!/bin/sh
# Training and evaluation on the emulated device: the numbers of the CPU, runs that go on on the
# other one, what is recorded, what is refused.
. "$(dirname "$0")/checks.sh"

quiet data generate lra-listops --rows 12,4,4 --out data || exit 1
small="--task lra-listops --attn softmax --data data --layers 1 --batch 2 --steps 4 --warmup 2
    --eval-every 4 --eval-batches 1"

# same A B: training, dev and test of both logs agree to 1e-4
same() {
    lua5.4 - "$1/log.jsonl" "$2/log.jsonl" <<'LUA'
local function read(path)
  local out = {}
  for line in io.lines(path) do
    local step, split = line:match('"step":(%d+),"split":"(%a+)"')
    local loss, accuracy = line:match('"loss":([%d.e-]+),"accuracy":([%d.e-]+)')
    if loss then out[split .. step] = { tonumber(loss), tonumber(accuracy), line:match('"grad_norm":([%d.e-]+)') } end
  end
  return out
end
local a, b, count = read(arg[1]), read(arg[2]), 0
for key, x in pairs(a) do
  local y = assert(b[key], key .. " is missing")
  assert(math.abs(x[1] - y[1]) < 1e-4 and x[2] == y[2], ("%s: loss %g and %g"):format(key, x[1], y[1]))
  if x[3] then assert(math.abs(x[3] / y[3] - 1) < 1e-4, key .. ": norm") end
  count = count + 1
end
for key in pairs(b) do assert(a[key], key .. " is too much") end
assert(count == 6, count .. " lines")
LUA
}

# shellcheck disable=SC2086
{
    is "train" quiet train $small --run cpu
    is "train on the device" quiet train $small --run emu --device emu
    is "its report" grep -q '<html' emu/report.html
    is "the same numbers" same cpu emu
    is "a batch in parts" quiet train $small --run parts --device emu --accumulate 2 --stop-at 1
    is "the device is recorded" grep -q '"device": "emu"' emu/config.json
    is "its memory is logged" grep -q '"device_peak_bytes":[1-9]' emu/log.jsonl
    is "the last line names it" sh -c 'tail -1 emu/log.jsonl | grep -q "\"device\":\"emulator\""'

    is "train, stopped at 2" quiet train $small --run there --stop-at 2
    is "and on on the device" quiet train --resume --run there --device emu
    is "the same numbers again" same cpu there
    is "train on the device, stopped at 2" quiet train $small --run back --device emu --stop-at 2
    is "and on on the CPU" quiet train --resume --run back --device cpu
    is "and the same numbers" same cpu back
}
official="--task lra-listops --attn performer --feat posrf --kernel orf --m 16 --official --data data --layers 1
    --batch 2 --steps 4 --warmup 2 --eval-every 4 --eval-batches 1"
# shellcheck disable=SC2086
{
    is "train as the reference does" quiet train $official --run official
    is "on the device too" quiet train $official --run official-emu --device emu
    is "with the same numbers" same official official-emu
}
# A moment that is no number: a step later a parameter is none, and then the scores.
size=$(wc -c <parts/checkpoint.safetensors)
printf '\377\377\377\177' | dd of=parts/checkpoint.safetensors bs=1 seek=$((size - 4)) conv=notrunc 2>/dev/null
"$bin" train --resume --run parts >/dev/null 2>diverged.err
is "divergence ends a run" test $? -eq 3
is "with the step and the place" grep -q "step 3: diverged: NaN or Inf first in the scores" diverged.err
is "which is logged" grep -q '"step":2.*"reason":"diverged"' parts/log.jsonl

"$bin" eval --run emu --split dev --json >emu.json 2>/dev/null
"$bin" eval --run emu --split dev --device cpu --json >cpu.json 2>/dev/null
is "evaluation on either" lua5.4 - <<'LUA'
local function loss(path) return tonumber(io.open(path):read("a"):match('"loss": ([%d.e-]+)')) end
assert(math.abs(loss("emu.json") - loss("cpu.json")) < 1e-4)
LUA

# shellcheck disable=SC2086
{
    says 2 "cpu|cuda|emu" train $small --run x --device gpu
    says 2 "precision fast" train $small --run x --precision fast
    says 2 "precision" train $small --run x --device emu --precision bf16
}
is "nothing was begun" test ! -e x
totals
