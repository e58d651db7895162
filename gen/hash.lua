-- The hash of texts in manifests, tables and the registry.
local M = {}

-- FNV-1a, 64 bits, as 16 hexadecimal digits: tells texts apart, not a signature.
function M.fnv1a(text)
  local h = 0xcbf29ce484222325
  for i = 1, #text do h = (h ~ text:byte(i)) * 0x100000001b3 end
  return ("%016x"):format(h)
end

return M
