-- What a device is asked to compile: for every kind of request a list of { name, text, launch, file }. The
-- runtime takes what it opens from here (jit_programs_make of runtime/kernel/programs.h), and what is compiled
-- ahead are the same lists for all that can be asked of a pair ("pair") or of the benchmark's models ("tasks"), so that
-- nothing can be asked for that was left out.
local cuda_text = require "gen.cuda_text"
local files = require "gen.files"
local jit = require "gen.jit"
local load_spec = require "gen.load_spec"

local M = {}

local kinds = {} -- kinds[kind](list, request)

local function put(list, name, text, launch, file)
  if not list.has[text] then
    list.has[text] = true
    list[#list + 1] = { name = name, text = text, launch = launch, file = file }
  end
  return launch
end

-- ---- of a feature ------------------------------------------------------------------------------------

-- One text by its name.
local function add(list, r, kind)
  local text, launch, file = cuda_text.text(r.feature, r, "f32",
    { kind = kind, dtype = r.dtype, precision = r.precision, learn = r.learn, arch = r.arch })
  return put(list, kind == "phi" and "phi of " .. r.feature.name or kind, text, launch, file)
end

function kinds.features(list, r) add(list, r, "phi") end

function kinds.official(list, r)
  add(list, r, "attn_official")
  if r.feature.adapt then add(list, r, "attn_official_adapt") end
end

-- Passes by `causal`, in the order of launches.
local PASSES = {
  [false] = { "attn_keys", "attn_queries", "attn_queries_bwd", "attn_keys_bwd" },
  [true] = { "attn_keys", "attn_causal", "attn_causal_queries_bwd", "attn_causal_keys_bwd" },
}

-- What is made of the data before the passes.
function kinds.parameters(list, r)
  local feature = r.feature
  if (feature.adapt or feature.linear) and not r.causal then add(list, r, "attn_moments") end
  if feature.linear then
    add(list, r, "attn_products")
    add(list, r, "attn_maps")
  elseif feature.adapt then
    add(list, r, "attn_params")
  end
  if feature.counts then add(list, r, "attn_counts") end
end

function kinds.attention(list, r)
  local launch = {}
  for i, kernel in ipairs(PASSES[r.causal]) do launch[i] = add(list, r, kernel) end
  if r.causal and launch[2].row_blocks > 1 then add(list, r, "attn_combine") end
  if launch[3].row_blocks > 1 or launch[4].row_blocks > 1 then add(list, r, "attn_sum") end
  if not r.causal and launch[1].cluster > 0 then add(list, r, "attn_cluster") end
  if launch[3].cluster > 0 then add(list, r, "attn_cluster_bwd") end
  kinds.parameters(list, r)
  if r.learn then add(list, r, "attn_learned") end
end

function kinds.decoding(list, r)
  add(list, r, "attn_step")
  add(list, r, "attn_merge")
end

-- ---- of a model --------------------------------------------------------------------------------------

-- Definitions, then these files of templates/cuda.
local function whole(defines, names)
  local out = { defines }
  for _, name in ipairs(names) do
    local path = "templates/cuda/" .. name
    out[#out + 1] = ('#line 1 "%s"\n%s'):format(path, files.read(path))
  end
  return table.concat(out)
end

-- A template that no feature is part of, behind the files that it includes. r.defines ("HEAD_D=32 HEAD_DV=32")
-- is what it finds defined.
local function template(list, r)
  local defines, file, names = {}, { r.kind }, {}
  for key, value in r.defines:gmatch("(%S+)=(%S+)") do
    defines[#defines + 1] = ("#define %s %s\n"):format(key, value)
    file[#file + 1] = value
  end
  for name in files.read("templates/cuda/" .. r.kind .. ".cu"):gmatch('#include "([^"]+)"') do
    names[#names + 1] = name
  end
  names[#names + 1] = r.kind .. ".cu"
  put(list, r.kind, whole(table.concat(defines), names), {}, table.concat(file, "-"))
end

function kinds.row(list, r)
  put(list, "row operator " .. r.feat, cuda_text.row(load_spec.one("row", r.feat)), {}, r.feat)
end

-- Lengths of rows by operator, by name or as they are. Parameters are updated as rows of 1024.
local ROWS = { { "layernorm", "embed" }, { "dropout_residual", "embed" }, { "gelu", "hidden" }, { "relu", "hidden" },
  { "cross_entropy", "classes" }, { "adamw", 1024 } }

-- How a block of row.cuh shares out rows of n: as many neighbouring threads have one as its units keep busy, and
-- of short rows the gradients of shared inputs are collected in shared memory, a row for each share of threads.
local ROW_THREADS, SHORT = 256, 1024
local function row_launch(spec, n, unit)
  local lanes, shared = 4, 0
  while lanes < 32 and lanes * unit < n do lanes = 2 * lanes end
  for _, input in ipairs(spec.inputs) do
    if input.shape == "shared" and n <= SHORT then shared = ROW_THREADS // lanes * n * 4 end
  end
  return { row = n, lanes = lanes, shared = shared }
end

-- Rows are 16-byte aligned, in buffers and in parameters, where these and the widths are; scores never are.
function kinds.model(list, r)
  put(list, "model", whole("", { "rt.cuh", "args.h", "dropout.cuh", "model_args.h", "model.cu" }), {}, "model")
  local aligned = r.aligned and r.embed % 4 == 0 and r.hidden % 4 == 0 and r.inner % 4 == 0
  for _, row in ipairs(ROWS) do
    local name, n = row[1], r[row[2]] or row[2]
    local unit = name ~= "cross_entropy" and (aligned or name == "adamw") and 4 or 1
    local spec = load_spec.one("row", name)
    local launch = row_launch(spec, n, unit)
    local defines = { ROW_N = n, ROW_UNIT = unit, ROW_LANES = launch.lanes, ROW_SHORT = n <= SHORT and 1 or 0 }
    local text = {}
    for _, key in ipairs { "ROW_N", "ROW_UNIT", "ROW_LANES", "ROW_SHORT" } do
      text[#text + 1] = ("#define %s %d\n"):format(key, defines[key])
    end
    put(list, "row operator " .. name, table.concat(text) .. cuda_text.row(spec), launch,
      ("%s-%d-%d"):format(name, n, unit))
  end
end

-- ---- all of it ---------------------------------------------------------------------------------------

-- What `attend` and `train` can ask for: bf16 is always fast; what a matrix trains is trained in every use.
local PRECISIONS = { { "f32", "float32" }, { "f32", "fast" }, { "bf16", "fast" } }

function kinds.pair(list, r)
  local learner = r.matrix and load_spec.one("matrix", r.matrix).learner
  local learns = learner and { true } or r.feature.learn[1] and { false, true } or { false }
  kinds.features(list, r)
  if r.feature.official then kinds.official(list, r) end
  for _, precision in ipairs(PRECISIONS) do
    r.dtype, r.precision = precision[1], precision[2]
    for _, causal in ipairs(r.feature.linear and { false } or { false, true }) do -- linear maps see all tokens
      for _, learn in ipairs(learns) do
        r.causal, r.learn = causal, learn
        kinds.attention(list, r)
      end
    end
    if not r.feature.linear then kinds.decoding(list, r) end
  end
end

-- A task's settings: those of its file, else of the one that it names as its base.
local function task(name, folder)
  local path = ("specs/%s/%s.lua"):format(folder or "task", name)
  local t = assert(load(files.read(path), "=" .. path, "t", {}))()
  return t.base and setmetatable(t, { __index = task(t.base, "base") }) or t
end

function kinds.tasks(list)
  for _, name in ipairs(files.names("task")) do
    local t = task(name)
    for _, aligned in ipairs { true, false } do -- what attentions train may lie before the layers
      kinds.model(list, { embed = t.embed, hidden = t.hidden, inner = t.heads * t.head_dim, classes = t.classes,
        aligned = aligned })
    end
    template(list, { kind = "softmax", defines = ("HEAD_D=%d HEAD_DV=%d"):format(t.head_dim, t.head_dim) })
  end
end

-- The list. r: kind, one of the above or the name of a single text of a feature; feat, and spec, the text of a
-- user's own; matrix (of "pair"); D, DV, M; dtype, precision, learn, causal, arch; embed, hidden, inner, classes,
-- aligned (of "model"). Without a feature kind may be a file templates/cuda/KIND.cu; defines are then its own.
function M.list(r)
  local list = { has = {} }
  if r.D and r.feat then r.feature = jit.feature(r.feat, r.spec) end
  if kinds[r.kind] then
    kinds[r.kind](list, r)
  elseif r.feature then
    add(list, r, r.kind)
  else
    template(list, r)
  end
  return list
end

local WORDS = { ["true"] = true, ["false"] = false }

-- The list that the runtime asks for: all but kind, feat and spec is in a text, "D=32 DV=32 causal=true".
function M.asked(kind, feat, spec, defines)
  local r = { kind = kind, feat = feat, spec = spec, defines = defines, dtype = "f32", precision = "float32",
    learn = false, causal = false }
  for key, value in defines:gmatch("(%S+)=(%S+)") do
    r[key] = math.tointeger(value) or value
    if WORDS[value] ~= nil then r[key] = WORDS[value] end
  end
  if r.arch == 0 then r.arch = nil end -- what has no architecture: the default
  return M.list(r)
end

return M
