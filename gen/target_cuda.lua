-- CUDA: the functions of a feature and the row operators, a warp a row, as header-free text for
-- NVRTC. What threads do is in templates/cuda; here are spellings.
local E = require "gen.expr"
local feature = require "gen.feature"
local files = require "gen.files"
local row_operator = require "gen.rows"

local M = {}

local FOLDER = "templates/cuda/"
M.RUNTIME = { FOLDER .. "rt.cuh", FOLDER .. "args.h" } -- what every text starts from

-- Where rows of dropout's factors are bits (dropout.cuh).
local function is_bits(field)
  return field.name == "keep"
end

-- A thread's share of a row: units of ROW_UNIT elements. Inside a loop `name_v[i]` is an element of
-- the unit of `name` at j0; loops() puts loads before and stores behind what the body did with them.
function M.target(dtype)
  local suffix = dtype == "f64" and "" or "f"
  local t = {
    wide = { type = "real", key = "cuda" },
    narrow = { type = "real", key = "cuda" },
    suffix = suffix,
    is_bits = is_bits,
  }
  local add_of, is_part, bits = {}, {}, {} -- by name: what says that a gradient is added to what is there
  local used, loads, stores, indexed -- of the loop under way

  function t.number(value)
    local text = E.number(value) .. suffix
    return value < 0 and "(" .. text .. ")" or text
  end

  local function use(list, name)
    if not used[name] then
      used[name] = true
      table.insert(list, name)
    end
  end

  -- Lines before and behind the loop over a unit's elements.
  local function around(indent)
    local before, behind = {}, {}
    for _, name in ipairs(loads) do
      before[#before + 1] = ("%sreal %s_v[ROW_UNIT];"):format(indent, name)
      before[#before + 1] = bits[name]
        and ("%srow_keep(%s_v, %s, j0, a->keep_factor);"):format(indent, name, name)
        or ("%srow_load(%s_v, %s + j0);"):format(indent, name, name)
    end
    for _, name in ipairs(stores) do
      local add = add_of[name]
      before[#before + 1] = ("%sreal %s_v[ROW_UNIT]%s;"):format(indent, name, add and " = {0}" or "")
      if add then
        before[#before + 1] = ("%sif (inside && %s && %s)"):format(indent, name, add)
        before[#before + 1] = ("%s    row_load(%s_v, %s + j0);"):format(indent, name, name)
      end
      behind[#behind + 1] = ("%sif (inside%s)"):format(indent, add and " && " .. name or "")
      behind[#behind + 1] = ("%s    row_store(%s + j0, %s_v);"):format(indent, name, name)
    end
    return before, behind
  end

  function t.loops(lines, indent, body)
    used, loads, stores, indexed = {}, {}, {}, false
    local start, inner = #lines, indent .. "    "
    body(inner .. "    ", false)
    local elements = table.move(lines, start + 1, #lines, 1, {})
    for k = #lines, start + 1, -1 do lines[k] = nil end
    local before, behind = around(inner)
    local function put(list) table.move(list, 1, #list, #lines + 1, lines) end
    put { indent .. "ROW_UNROLL", indent .. "for (int64_t k = 0; k < n; k += ROW_STEP) {",
      inner .. "const int64_t j0 = k + lane * ROW_UNIT;", inner .. "if (!ROW_FULL && j0 >= n)",
      inner .. "    break;" }
    put(before)
    put { inner .. "UNROLL", inner .. "for (int i = 0; i < ROW_UNIT; i++) {" }
    if indexed then put { inner .. "    const int64_t j = j0 + i;" } end
    put(elements)
    put { inner .. "}" }
    put(behind)
    put { indent .. "}" }
  end

  -- Factors of dropout have no gradient.
  function t.bits_open(name)
    bits[name] = true
    return ("        const byte *%s = a->keep ? a->keep + r * a->ld_keep : 0;"):format(name)
  end

  function t.gradient_of(name, add)
    add_of[name] = add
  end

  function t.load(pointer)
    if is_part[pointer] then return ("ROW_AT(%s)"):format(pointer) end
    if not add_of[pointer] then use(loads, pointer) end
    return pointer .. "_v[i]"
  end

  function t.index()
    indexed = true
    return "(real)j"
  end

  function t.start(op)
    return op == "sum" and "0" or "-INFINITY"
  end

  function t.accumulate(op, name, value)
    if op == "sum" then return ("%s += %s;"):format(name, value) end
    return ("%s = fmax%s(%s, %s);"):format(name, suffix, name, value)
  end

  function t.finish(op, name)
    return (op == "sum" and "row_sum(%s)" or "row_max(%s)"):format(name)
  end

  function t.row_open(which)
    return ("KERNEL(%s, row_cuda_args, 256, 1)"):format(which), {
      "    const row_cuda_args *a = &args;",
      "    const int lane = THREAD % ROW_LANES;",
      "    const int64_t n = ROW_N ? ROW_N : a->n, shares = BLOCKS * (THREADS / ROW_LANES);",
      "    const int64_t share = BLOCK * (THREADS / ROW_LANES) + THREAD / ROW_LANES;",
    }, "    for (int64_t first = 0; first < a->rows; first += shares) {"
  end

  -- Every thread of a warp takes part in sums: where rows have run out for some of them, in those of the
  -- last row once more.
  t.row_start = {
    "        if (first + share - share % (32 / ROW_LANES) >= a->rows)",
    "            break; /* nothing is left for this warp */",
    "        const bool inside = first + share < a->rows;",
    "        const int64_t r = inside ? first + share : a->rows - 1;",
  }

  function t.put(at, value, wide)
    if not wide then return ("if (inside && lane == 0) { *%s = %s; }"):format(at, value) end
    if is_part[at] then return ("if (inside) { ROW_AT(%s) = %s; }"):format(at, value) end
    use(stores, at)
    return ("%s_v[i] = %s;"):format(at, value)
  end

  local slots = 0
  function t.shared_part(name, field, outer, last)
    local part = ("part%d"):format(slots)
    is_part[part] = true
    outer[#outer + 1] = ("    ROW_PART(%s, %d); /* of %s */"):format(part, slots, field.name)
    last[#last + 1] = ("    row_collect(a, %d, %s);"):format(slots, part)
    slots = slots + 1
    return ("        const bool %s = a->gin[%d] != 0;"):format(name, field.slot), part
  end
  return t
end

-- The texts of headers, one behind the other.
local function headers(paths)
  local out = {}
  for i, path in ipairs(paths) do out[i] = ('#line 1 "%s"\n%s'):format(path, files.read(path)) end
  return table.concat(out)
end

-- The functions of a feature, behind what every text starts from and `more`, headers.
function M.prologue(spec, sizes, dtype, more)
  local out = { (dtype == "f64" and "#define REAL double\n" or "")
    .. headers { M.RUNTIME[1], M.RUNTIME[2], table.unpack(more or {}) }, "enum {" }
  for _, constant in ipairs(feature.constants(spec, sizes)) do
    out[#out + 1] = ("    %s = %d,"):format(constant[1], constant[2])
  end
  out[#out + 1] = "};\n"
  local functions = feature.functions(spec, M.target(dtype), "DEVICE ")
  return table.concat(table.move(functions, 1, #functions, #out + 1, out), "\n")
end

-- A row operator: kernels row_fwd, row_bwd and, where inputs are shared, row_bwd_shared.
function M.row(spec)
  local shared, dropout = {}, false
  for _, input in ipairs(spec.inputs) do
    dropout = dropout or is_bits(input)
    if input.shape == "shared" then shared[#shared + 1] = input.slot end
  end
  local paths = { table.unpack(M.RUNTIME) }
  if dropout then paths[#paths + 1] = FOLDER .. "dropout.cuh" end
  paths[#paths + 1] = FOLDER .. "row.cuh"
  local out = { headers(paths) }
  if spec.backward and shared[1] then
    out[#out + 1] = ("enum { SHARED_INPUTS = %d };\n#define ROW_SHARED_INPUTS {%s}"):format(#shared,
      table.concat(shared, ", "))
    out[#out + 1] = headers { FOLDER .. "row_shared.cuh" }
  end
  out[#out + 1] = ('#line 1 "%s.cu"\n/* %s: %s (%s) */'):format(spec.name, spec.name, spec.doc,
    spec.source)
  out[#out + 1] = row_operator.render(spec, "row_fwd", M.target("f32"))
  if spec.backward then out[#out + 1] = row_operator.render(spec, "row_bwd", M.target("f32")) end
  return table.concat(out, "\n")
end

return M
