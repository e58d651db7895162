-- The operator table: one operator, one row.
--
--   arity   number of arguments
--   c       scalar C; $1, $2 ... are the arguments; vec: vector C; cuda: CUDA, where @ is the f of
--           float functions. `vec` and `cuda` default to `c`.
--   prec    binding strength of the spelling: 1 sum, 2 product, 3 sign, 4 call
--   eval    value in Lua
--   grad    (E, g, y, args...) -> adjoints of the arguments, in the same operator language, where
--           g is the adjoint of the value y; nil or false: no derivative
--   fold    (E, args...) -> simpler node or nil; cheap and local, called at construction
--   flops   cost of one value; commutes: a, b and b, a are the same expression
--   reduces true where a vector becomes a scalar
--
-- Removable singular points (sqrt at 0, |x| at 0) have finite derivatives here; a spec never sees
-- them.
local M = {}

local function is(node, value)
  return node.op == "const" and node.value == value
end

-- 0 constant, 1 narrow (one number), 2 wide (a vector): products keep the narrow factors together
-- and outside, so that they are computed once.
local function rank(node)
  return node.op == "const" and 0 or (node.wide and 2 or 1)
end

local function ordered(a, b)
  local ra, rb = rank(a), rank(b)
  return ra < rb or (ra == rb and a.id <= b.id)
end

local function narrow_times_wide(node)
  return node.op == "mul" and rank(node[1]) < 2 and rank(node[2]) == 2
end

-- True for powers of two: x / 8 is then x * 0.125 to the last bit.
local function exact_reciprocal(value)
  if value == 0 then return false end
  local mantissa = math.abs(value)
  while mantissa >= 2 do mantissa = mantissa / 2 end
  while mantissa < 1 do mantissa = mantissa * 2 end
  return mantissa == 1
end

-- erf to double precision: the series up to 2.5, Lentz's continued fraction of erfc beyond.
local function erf(x)
  local a = math.abs(x)
  if a < 2.5 then
    local term, total, k = x, x, 0
    repeat
      k = k + 1
      term = -term * x * x / k
      total = total + term / (2 * k + 1)
    until math.abs(term) < 1e-18 * math.abs(total) or k > 200
    return 2 / math.sqrt(math.pi) * total
  end
  local fraction = 0.0
  for k = 80, 1, -1 do
    fraction = k / 2 / (a + fraction)
  end
  local tail = a > 26 and 0 or math.exp(-a * a) / math.sqrt(math.pi) / (a + fraction)
  return x < 0 and tail - 1 or 1 - tail
end

M.add = {
  arity = 2, c = "$1 + $2", prec = 1, flops = 1, commutes = true,
  eval = function(a, b) return a + b end,
  grad = function(_, g) return g, g end,
  fold = function(E, a, b)
    if is(a, 0) then return b end
    if is(b, 0) then return a end
    if b.op == "neg" then return E.sub(a, b[1]) end
    if a.op == "neg" then return E.sub(b, a[1]) end
    if a == b then return E.mul(2, a) end
    if a.op == "add" and a[2] == b then return E.add(a[1], E.mul(2, b)) end
  end,
}

M.sub = {
  arity = 2, c = "$1 - $2", prec = 1, flops = 1,
  eval = function(a, b) return a - b end,
  grad = function(_, g) return g, -g end,
  fold = function(E, a, b)
    if is(b, 0) then return a end
    if is(a, 0) then return E.neg(b) end
    if a == b then return E.const(0) end
    if b.op == "neg" then return E.add(a, b[1]) end
    if a.op == "sub" and a[2] == b then return E.sub(a[1], E.mul(2, b)) end
  end,
}

M.mul = {
  arity = 2, c = "$1 * $2", prec = 2, flops = 1,
  eval = function(a, b) return a * b end,
  grad = function(_, g, _, a, b) return g * b, g * a end,
  fold = function(E, a, b)
    if not ordered(a, b) then return E.mul(b, a) end
    if is(a, 0) then return a end
    if is(a, 1) then return b end
    if is(a, -1) then return E.neg(b) end
    if a == E.length and b.op == "div" and b[2] == a then return b[1] end
    if a.op == "neg" then return E.neg(E.mul(a[1], b)) end
    if b.op == "neg" then return E.neg(E.mul(a, b[1])) end
    if a.op == "const" and b.op == "mul" and b[1].op == "const" then
      return E.mul(a.value * b[1].value, b[2])
    end
    if narrow_times_wide(b) then
      if rank(a) < 2 then return E.mul(E.mul(a, b[1]), b[2]) end
      return E.mul(b[1], E.mul(a, b[2]))
    end
    if narrow_times_wide(a) then return E.mul(a[1], E.mul(a[2], b)) end
  end,
}

M.div = {
  arity = 2, c = "$1 / $2", prec = 2, flops = 4,
  eval = function(a, b) return a / b end,
  grad = function(_, g, y, _, b) return g / b, -(g * y) / b end,
  fold = function(E, a, b)
    if is(a, 0) then return a end
    if is(b, 1) then return a end
    if a.op == "neg" then return E.neg(E.div(a[1], b)) end
    if b.op == "const" and (exact_reciprocal(b.value) or (a.wide and b.value ~= 0)) then
      return E.mul(1 / b.value, a)
    end
    if rank(a) == 2 and rank(b) == 1 then return E.mul(E.div(1, b), a) end
    if narrow_times_wide(a) then return E.mul(a[1], E.div(a[2], b)) end
  end,
}

M.neg = {
  arity = 1, c = "-$1", prec = 3, flops = 1,
  eval = function(a) return -a end,
  grad = function(_, g) return -g end,
  fold = function(E, a)
    if a.op == "neg" then return a[1] end
    if a.op == "sub" then return E.sub(a[2], a[1]) end
    if a.op == "mul" and a[1].op == "const" then return E.mul(-a[1].value, a[2]) end
  end,
}

M.exp = {
  arity = 1, c = "s_exp($1)", vec = "v_exp($1)", cuda = "exp@($1)", prec = 4, flops = 12,
  eval = math.exp,
  grad = function(_, g, y) return g * y end,
}

M.log = {
  arity = 1, c = "s_log($1)", vec = "v_log($1)", cuda = "log@($1)", prec = 4, flops = 12,
  eval = math.log,
  grad = function(_, g, _, a) return g / a end,
}

M.sqrt = {
  arity = 1, c = "s_sqrt($1)", vec = "v_sqrt($1)", cuda = "sqrt@($1)", prec = 4, flops = 4,
  eval = math.sqrt,
  grad = function(E, g, y) return g * E.where(E.lt(0, y), 0.5 / y, 0) end,
}

M.sin = {
  arity = 1, c = "s_sin($1)", vec = "v_sin($1)", cuda = "rt_sin@($1)", prec = 4, flops = 14,
  eval = math.sin,
  grad = function(E, g, _, a) return g * E.cos(a) end,
}

M.cos = {
  arity = 1, c = "s_cos($1)", vec = "v_cos($1)", cuda = "rt_cos@($1)", prec = 4, flops = 14,
  eval = math.cos,
  grad = function(E, g, _, a) return -(g * E.sin(a)) end,
}

M.atan = {
  arity = 1, c = "s_atan($1)", vec = "v_atan($1)", cuda = "atan@($1)", prec = 4, flops = 20,
  eval = function(a) return math.atan(a) end,
  grad = function(_, g, _, a) return g / (1 + a * a) end,
}

-- I1(a) / I0(a) of a >= 0, for parameters: it has no derivative.
M.bessel_ratio = {
  arity = 1, c = "s_bessel_ratio($1)", cuda = "bessel_ratio($1)", prec = 4, flops = 40,
  eval = function(a)
    local k, ratio = 60 + 2 * math.ceil(a), 0.0
    for n = k, 1, -1 do ratio = a / (2 * n + a * ratio) end
    return ratio
  end,
}

M.erf = {
  arity = 1, c = "s_erf($1)", vec = "v_erf($1)", cuda = "erf@($1)", prec = 4, flops = 20,
  eval = erf,
  grad = function(E, g, _, a) return g * (2 / math.sqrt(math.pi) * E.exp(-(a * a))) end,
}

-- At a tie the second argument counts, so that max(x, 0) has the derivative 0 at 0.
M.max = {
  arity = 2, c = "s_max($1, $2)", vec = "v_max($1, $2)", cuda = "fmax@($1, $2)", prec = 4,
  flops = 1,
  eval = function(a, b) return a > b and a or b end,
  grad = function(E, g, _, a, b)
    local first = E.lt(b, a)
    return E.where(first, g, 0), E.where(first, 0, g)
  end,
}

M.min = {
  arity = 2, c = "s_min($1, $2)", vec = "v_min($1, $2)", cuda = "fmin@($1, $2)", prec = 4,
  flops = 1,
  eval = function(a, b) return a < b and a or b end,
  grad = function(E, g, _, a, b)
    local first = E.lt(a, b)
    return E.where(first, g, 0), E.where(first, 0, g)
  end,
}

M.abs = {
  arity = 1, c = "s_abs($1)", vec = "v_abs($1)", cuda = "fabs@($1)", prec = 4, flops = 1,
  eval = math.abs,
  grad = function(E, g, _, a)
    return E.where(E.lt(a, 0), -g, E.where(E.lt(0, a), g, 0))
  end,
}

-- 1 where a < b, else 0: a step, its derivative is 0.
M.lt = {
  arity = 2, c = "s_lt($1, $2)", vec = "v_lt($1, $2)", cuda = "(real)($1 < $2)", prec = 4,
  flops = 1,
  eval = function(a, b) return a < b and 1.0 or 0.0 end,
}

M.where = {
  arity = 3, c = "s_where($1, $2, $3)", vec = "v_where($1, $2, $3)",
  cuda = "($1 != 0 ? $2 : $3)", prec = 4, flops = 1,
  eval = function(c, a, b)
    if c ~= 0 then return a end
    return b
  end,
  grad = function(E, g, _, c) return nil, E.where(c, g, 0), E.where(c, 0, g) end,
  fold = function(_, c, a, b)
    if c.op == "const" then return c.value ~= 0 and a or b end
    if a == b then return a end
  end,
}

-- Sum over the vector. Scalars and sums are pulled out, which saves whole passes over a row.
M.sum = {
  arity = 1, prec = 4, flops = 1, reduces = true,
  grad = function(_, g) return g end,
  fold = function(E, a)
    if not a.wide then return E.mul(E.length, a) end
    if a.op == "neg" then return E.neg(E.sum(a[1])) end
    if a.op == "add" then return E.add(E.sum(a[1]), E.sum(a[2])) end
    if a.op == "sub" then return E.sub(E.sum(a[1]), E.sum(a[2])) end
    if narrow_times_wide(a) then return E.mul(a[1], E.sum(a[2])) end
  end,
}

-- Maximum over the vector: a shift, constant for differentiation.
M.rmax = {
  arity = 1, prec = 4, flops = 1, reduces = true,
  fold = function(_, a)
    if not a.wide then return a end
  end,
}

for _, row in pairs(M) do
  row.vec = row.vec or row.c
  row.cuda = row.cuda or row.c
end

return M
