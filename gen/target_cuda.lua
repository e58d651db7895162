-- CUDA: the functions of a feature and the row operators, a warp a row, as header-free text for
-- NVRTC. What threads do is in templates/cuda; here are spellings.
local E = require "gen.expr"
local feature = require "gen.feature"
local files = require "gen.files"
local row_operator = require "gen.rows"

local M = {}

M.RUNTIME = { "templates/cuda/rt.cuh", "templates/cuda/args.h" }
local DROPOUT = "templates/cuda/dropout.cuh"

-- Where rows of dropout's factors are bits (dropout.cuh).
local function is_bits(field)
  return field.name == "keep"
end

-- How a row is shared out in row operators. ROW_LANES neighbouring threads have one, ROW_UNIT elements
-- each at a time, those of thread `lane` begin at k + lane * ROW_UNIT for k = 0, ROW_LANES * ROW_UNIT ...
local SHARES = [[
#ifndef ROW_N
#define ROW_N 0 /* length of a row where it is known, else args.n */
#endif
#ifndef ROW_UNIT
#define ROW_UNIT 1 /* 4: rows and shared inputs are 16-byte aligned, n is a multiple of 4 */
#endif
#if ROW_N == 0 || ROW_N > 16 * ROW_UNIT
#define ROW_LANES 32
#elif ROW_N > 8 * ROW_UNIT
#define ROW_LANES 16
#elif ROW_N > 4 * ROW_UNIT
#define ROW_LANES 8
#else
#define ROW_LANES 4
#endif
#define ROW_STEP (ROW_LANES * ROW_UNIT)
/* short rows: everything in registers, loops unrolled */
#define ROW_SHORT (ROW_N > 0 && ROW_N <= 1024)
#if ROW_SHORT
#define ROW_UNROLL UNROLL
#define ROW_FULL (ROW_N % ROW_STEP == 0)
#else
#define ROW_UNROLL
#define ROW_FULL 0
#endif

DEVICE real row_sum(real x)
{
    for (int lanes = ROW_LANES / 2; lanes > 0; lanes /= 2)
        x += warp_shuffle_xor(x, lanes);
    return x;
}

DEVICE real row_max(real x)
{
    for (int lanes = ROW_LANES / 2; lanes > 0; lanes /= 2)
        x = real_max(x, warp_shuffle_xor(x, lanes));
    return x;
}

DEVICE void row_load(real *x, const real *p)
{
#if ROW_UNIT == 4
    const float4 y = global_load4(p);
    x[0] = y.x;
    x[1] = y.y;
    x[2] = y.z;
    x[3] = y.w;
#else
    x[0] = global_load(p);
#endif
}

DEVICE void row_store(real *p, const real *x)
{
#if ROW_UNIT == 4
    float4 y;
    y.x = x[0];
    y.y = x[1];
    y.z = x[2];
    y.w = x[3];
    global_store4(p, y);
#else
    global_store(p, x[0]);
#endif
}
]]

local KEEP = [[

DEVICE void row_keep(real *keep, const byte *row, int64_t j, real factor)
{
#if ROW_UNIT == 4
    keep_four(keep, row, j, factor);
#else
    keep[0] = keep_at(row, j, factor);
#endif
}
]]

-- Gradients of shared inputs: of short rows in registers, which the block adds up at the end; else
-- every share of threads has its own row of `part`.
local HELD = [[

#if ROW_SHORT
#define ROW_HELD ((ROW_N + ROW_STEP - 1) / ROW_STEP * ROW_UNIT)
#define ROW_PART(name, slot) real name[ROW_HELD] = {0}
#define ROW_AT(name) name[k / ROW_LANES + i]

/* Sums over the block's shares in order, to row BLOCK of input `slot` of part. Shared memory: a row a
 * share. */
DEVICE void row_collect(const row_cuda_args *a, int slot, const real *held)
{
    SHARED_MEMORY(memory);
    real *sums = (real *)memory;
    const int lane = THREAD % ROW_LANES, share = THREAD / ROW_LANES;
    block_sync();
    ROW_UNROLL
    for (int k = 0; k < ROW_N; k += ROW_STEP)
        UNROLL
        for (int i = 0; i < ROW_UNIT; i++)
            if (ROW_FULL || k + lane * ROW_UNIT < ROW_N)
                shared_store(sums + share * ROW_N + k + lane * ROW_UNIT + i, held[k / ROW_LANES + i]);
    block_sync();
    for (int j = THREAD; j < ROW_N; j += THREADS) {
        real sum = 0;
        for (int s = 0; s < THREADS / ROW_LANES; s++)
            sum += shared_load(sums + s * ROW_N + j);
        global_store(a->part + (slot * a->parts + BLOCK) * ROW_N + j, sum);
    }
}
#else
#define ROW_PART(name, slot)                                        \
    real *name = a->part + (slot * a->parts + share) * n;           \
    for (int64_t j = lane * ROW_UNIT; j < n; j += ROW_STEP)         \
        for (int i = 0; i < ROW_UNIT; i++)                          \
            name[j + i] = 0
#define ROW_AT(name) name[j0 + i]

DEVICE void row_collect(const row_cuda_args *a, int slot, const real *held)
{
    (void)a;
    (void)slot;
    (void)held;
}
#endif
]]

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
        before[#before + 1] = ("%sif (%s && %s)"):format(indent, name, add)
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

-- What every text starts from, and one more header.
local function runtime(more)
  local out = {}
  for i, path in ipairs(M.RUNTIME) do out[i] = ('#line 1 "%s"\n%s'):format(path, files.read(path)) end
  if more then out[#out + 1] = ('#line 1 "%s"\n%s'):format(more, files.read(more)) end
  return table.concat(out)
end

-- The functions of a feature. more: a header behind those of every text.
function M.prologue(spec, sizes, dtype, more)
  local out = { (dtype == "f64" and "#define REAL double\n" or "") .. runtime(more), "enum {" }
  for _, constant in ipairs(feature.constants(spec, sizes)) do
    out[#out + 1] = ("    %s = %d,"):format(constant[1], constant[2])
  end
  out[#out + 1] = "};\n"
  local functions = feature.functions(spec, M.target(dtype), "DEVICE ")
  return table.concat(table.move(functions, 1, #functions, #out + 1, out), "\n")
end

local REDUCE = [[
/* After row_bwd: adds the parts of the gradients of shared inputs, a warp an element. */
KERNEL(row_bwd_shared, row_cuda_args, 256, 1)
{
    const int64_t n = args.n, parts = args.parts, warps = BLOCKS * (THREADS / 32);
    for (int64_t j = BLOCK * (THREADS / 32) + THREAD / 32; j < n; j += warps) {
%s
    }
}
]]

-- A row operator: kernels row_fwd, row_bwd and, where inputs are shared, row_bwd_shared.
function M.row(spec)
  local sums, slot, dropout = {}, 0, nil
  for _, input in ipairs(spec.inputs) do
    dropout = dropout or is_bits(input) and DROPOUT or nil
    if input.shape == "shared" then
      sums[#sums + 1] = ([[
        if (args.gin[%d]) { /* %s */
            real g = 0;
            for (int64_t w = THREAD %% 32; w < parts; w += 32)
                g += global_load(args.part + (%d * parts + w) * n + j);
            g = warp_sum(g);
            if (THREAD %% 32 == 0)
                global_store(args.gin[%d] + j, global_load(args.gin[%d] + j) + g);
        }]]):format(input.slot, input.name, slot, input.slot, input.slot)
      slot = slot + 1
    end
  end
  local out = { runtime(dropout) .. SHARES .. (dropout and KEEP or "")
    .. (spec.backward and slot > 0 and HELD or ""),
    ("/* %s: %s (%s) */"):format(spec.name, spec.doc, spec.source),
    row_operator.render(spec, "row_fwd", M.target("f32")) }
  if not spec.backward then return table.concat(out, "\n") end
  out[#out + 1] = row_operator.render(spec, "row_bwd", M.target("f32"))
  if slot > 0 then out[#out + 1] = REDUCE:format(table.concat(sums, "\n")) end
  return table.concat(out, "\n")
end

return M
