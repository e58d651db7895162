-- lua5.4 tests/device/cuda_table.lua PROGRAM FOLDER TABLE [--write] : what every CUDA attention kernel takes of a
-- GPU, compared with TABLE. A row is
--     feature kernel type arch hash registers stack stores loads shared blocks
-- with the hash of the text, bytes of stack and of spilled registers, of shared memory, and the blocks a
-- multiprocessor that the planner counts on. PROGRAM (cuda_resources) compiles. Rows whose text has
-- another hash now are compiled and compared, so that a table left behind fails, and some rows always
-- are; --write compiles what the table does not have and writes it. CUDA_TABLE_JOBS: compilers at a time.
package.path = "./?.lua;" .. package.path

local cuda_text = require "gen.cuda_text"
local cuda_tiles = require "gen.cuda_tiles"
local gpu = require "gen.cuda_gpu"
local hash = require "gen.hash"
local load_spec = require "gen.load_spec"

local SIZES = { D = 32, DV = 32, M = 128 }
local ARCHS = { "sm_80", "sm_90a", "sm_100" }
-- One feature of each class: these in every type for every architecture, the others in one.
local CLASSES = { posrf = true, trigrf = true, saderf = true, sderf = true, hrf = true }
local TYPES = {
  { name = "f32", dtype = "f32", precision = "float32" },
  { name = "fast", dtype = "f32", precision = "fast" },
  { name = "bf16", dtype = "bf16", precision = "float32" },
  { name = "learn", dtype = "f32", precision = "float32", learn = true },
}
local FIELDS = { "feature", "kernel", "type", "arch", "hash", "registers", "stack", "stores", "loads",
  "shared", "blocks" }

local program, folder, path, mode = table.unpack(arg)
local passed, failed = 0, 0

local function check(ok, ...)
  if ok then
    passed = passed + 1
  else
    failed = failed + 1
    print("FAILED " .. string.format(...))
  end
end

local function key(row) return table.concat({ row.feature, row.kernel, row.type, row.arch }, " ") end

-- Kernels that are rows: `always` those of which some are compiled though the table has them, `learn` those with
-- a variant that makes gradients of parameters, `cluster` those with blocks of a cluster, which are for
-- sm_90 and up, `causal` those of features that can be causal, `plain` those in which features differ by a number
-- only, `maps` those of features with linear maps.
local KERNELS = {
  { name = "attn_keys", always = true }, { name = "attn_queries", always = true },
  { name = "attn_queries_bwd", always = true, learn = true },
  { name = "attn_keys_bwd", always = true, learn = true },
  { name = "attn_cluster", cluster = true },
  { name = "attn_cluster_bwd", cluster = true, learn = true },
  { name = "attn_causal", causal = true },
  { name = "attn_causal_queries_bwd", causal = true, learn = true },
  { name = "attn_causal_keys_bwd", causal = true, learn = true },
  { name = "attn_step", causal = true },
  { name = "attn_combine", plain = true }, { name = "attn_sum", plain = true },
  { name = "attn_merge", plain = true },
  { name = "attn_products", maps = true, always = true }, { name = "attn_maps", maps = true, always = true },
}
local PLAIN = { posrf = true, hrf = true }

-- Rows of sizes at which blocks have device memory in place of shared memory: D, the same as DV, and M,
-- which are in the row's type.
local BIG = {
  { "posrf", "attn_queries_bwd", 256, 1024, "sm_86" }, { "posrf", "attn_keys_bwd", 256, 1024, "sm_86" },
  { "trigrf", "attn_queries_bwd", 256, 1024, "sm_86" }, { "trigrf", "attn_keys_bwd", 256, 1024, "sm_86" },
  { "cderf", "attn_keys", 256, 1024, "sm_80" }, { "cderf", "attn_queries", 256, 1024, "sm_80" },
  { "posrf", "attn_causal", 128, 256, "sm_86" },
  { "posrf", "attn_causal_queries_bwd", 128, 256, "sm_86" },
  { "hrf", "attn_step", 64, 1024, "sm_86" },
}

local function number_of(arch) return math.tointeger(arch:match("%d+")) end

local function class_of(arch) return gpu.class(number_of(arch)) end

local function archs_of(spec, kernel, kind)
  if kernel.causal and spec.linear or kernel.plain and not PLAIN[spec.name] then return {} end
  if kernel.maps and not (spec.linear and kind.name == "f32") then return {} end
  if kind.learn and not kernel.learn or kind.name ~= "f32" and kernel.plain then return {} end
  if kind.name ~= "f32" then return CLASSES[spec.name] and { "sm_90a" } or {} end
  return CLASSES[spec.name] and not kernel.plain and ARCHS or { "sm_90a" }
end

-- Where a block has no room for the whole state, there is no kernel with clusters.
local function is_there(spec, kernel, options)
  return not kernel.cluster or cuda_tiles.has_clusters(kernel.name, spec, SIZES, options)
end

-- A row with everything but what the compiler says; its text is written to the folder as <hash>.cu.
local function row_of(spec, kernel, sizes, type, arch, options)
  local text, launch = cuda_text.kernel("", spec, kernel.name, sizes, options)
  local row = { feature = spec.name, kernel = kernel.name, type = type, arch = arch, always = kernel.always,
    hash = hash.fnv1a(text), shared = launch.shared, blocks = launch.blocks, warps = launch.threads // 32,
    spilled = (launch.memory or 0) > 0 }
  row.file = ("%s/%s.cu"):format(folder, row.hash)
  local file = assert(io.open(row.file, "w"))
  file:write(text)
  file:close()
  return row
end

local function rows_wanted()
  local rows = {}
  for _, spec in ipairs(load_spec.all("feature")) do
    for _, kernel in ipairs(KERNELS) do
      for _, kind in ipairs(TYPES) do
        for _, arch in ipairs(archs_of(spec, kernel, kind)) do
          local options = { dtype = kind.dtype, precision = kind.precision, learn = kind.learn,
            arch = number_of(arch) }
          if is_there(spec, kernel, options) then
            rows[#rows + 1] = row_of(spec, kernel, SIZES, kind.name, arch, options)
          end
        end
      end
    end
  end
  for _, big in ipairs(BIG) do
    local feature, kernel, D, M, arch = table.unpack(big)
    rows[#rows + 1] = row_of(load_spec.one("feature", feature), { name = kernel }, { D = D, DV = D, M = M },
      ("f32-%dx%d"):format(D, M), arch, { dtype = "f32", precision = "float32", arch = number_of(arch) })
  end
  return rows
end

local function read_table()
  local rows, version = {}, nil
  local file = io.open(path, "r")
  if not file then return rows, "none" end
  for line in file:lines() do
    version = version or line:match("^# nvrtc (%S+)")
    local row, i = {}, 0
    for word in line:gmatch("%S+") do
      i = i + 1
      row[FIELDS[i] or "rest"] = i > 5 and math.tointeger(word) or word
    end
    if line:sub(1, 1) ~= "#" then rows[key(row)] = row end
  end
  file:close()
  return rows, version
end

-- Compiles rows; sets what each takes. The compiler's version, nil where there is none.
local function compile(rows)
  local jobs, version = math.tointeger(os.getenv("CUDA_TABLE_JOBS") or 1), nil
  local pipes, by_file = {}, {}
  for i = 1, jobs do
    local list = ("%s/list.%d"):format(folder, i)
    local file = assert(io.open(list, "w"))
    for n = i, #rows, jobs do
      file:write(rows[n].file, " ", rows[n].arch, "\n")
      by_file[rows[n].file .. rows[n].arch] = rows[n]
    end
    file:close()
    pipes[i] = assert(io.popen(("%s <%s"):format(program, list)))
  end
  for _, pipe in ipairs(pipes) do
    for line in pipe:lines() do
      version = version or line:match("^nvrtc (%d+%.%d+)")
      local file, arch, numbers = line:match("^(%S+) (sm_%S+) (.*)$")
      local row = file and by_file[file .. arch]
      if row then
        local r, stack, stores, loads = numbers:match("^(%d+) (%d+) (%d+) (%d+)$")
        row.registers, row.stack = math.tointeger(r), math.tointeger(stack)
        row.stores, row.loads = math.tointeger(stores), math.tointeger(loads)
      end
    end
    pipe:close()
  end
  return version
end

local function line_of(row)
  local words = {}
  for i, field in ipairs(FIELDS) do words[i] = tostring(row[field]) end
  return table.concat(words, " ")
end

-- What must hold of a row that was compiled.
local function check_row(row)
  check(row.registers, "%s does not compile", key(row))
  if not row.registers then return end
  check(row.stack == 0 and row.stores == 0 and row.loads == 0,
    "%s: %d registers, stack of %d bytes, %d and %d bytes spilled", key(row), row.registers, row.stack,
    row.stores, row.loads)
  local blocks = gpu.occupancy(class_of(row.arch), row.warps, row.registers, row.shared)
  row.blocks = row.blocks or blocks -- nobody counts on those of linear maps
  -- a step's blocks are its heads, however many are held; the text is one for all architectures
  local more = row.spilled or row.kernel == "attn_step"
  check(blocks == row.blocks or more and blocks > row.blocks,
    "%s: %d blocks a multiprocessor, the planner has %d", key(row), blocks, row.blocks)
end

local function write_table(rows, version)
  local file = assert(io.open(path, "w"))
  file:write("# nvrtc ", version, "\n# ", table.concat(FIELDS, " "), "\n")
  for _, row in ipairs(rows) do file:write(line_of(row), "\n") end
  file:close()
end

local function compare(rows, old, old_version)
  local chosen = {}
  for _, row in ipairs(rows) do
    local known = old[key(row)]
    local always = row.always and row.type == "f32" and row.arch == "sm_90a" and CLASSES[row.feature]
    if always or not known or known.hash ~= row.hash then chosen[#chosen + 1] = row end
  end
  local version = compile(chosen)
  if not version then
    print(("skipped: no libnvrtc on this machine, %d CUDA kernels not compiled"):format(#chosen))
    print(("0 passed, 0 failed, %d skipped"):format(#chosen))
    os.exit(0)
  end
  local same = version == old_version
  if not same then
    print(("NVRTC %s here, %s in the table: registers are not compared"):format(version, old_version))
  end
  for _, row in ipairs(chosen) do
    check_row(row)
    local known = old[key(row)]
    check(known, "%s is not in %s: run with --write", key(row), path)
    if known and same and row.registers then
      for _, field in ipairs { "registers", "stack", "stores", "loads", "shared", "blocks" } do
        check(row[field] == known[field], "%s: %s is %s, the table has %s", key(row), field, row[field],
          known[field])
      end
    end
  end
  print(("%d of %d kernels compiled, the others' texts are those of the table"):format(#chosen, #rows))
end

os.execute(("rm -rf '%s' && mkdir -p '%s'"):format(folder, folder))
local rows = rows_wanted()
if mode == "--write" then
  local old, old_version = read_table()
  local missing, version = {}, compile {}
  assert(version, "no libnvrtc on this machine")
  for _, row in ipairs(rows) do
    local known = old[key(row)]
    if known and known.hash == row.hash and version == old_version then
      for _, field in ipairs { "registers", "stack", "stores", "loads" } do row[field] = known[field] end
    else
      missing[#missing + 1] = row
    end
  end
  compile(missing)
  for _, row in ipairs(rows) do check_row(row) end
  write_table(rows, version)
else
  compare(rows, read_table())
end
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0 and passed > 0)
