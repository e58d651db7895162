-- Skeleton + prologue: the prologue takes the place of one line, #include "stub.h", and nothing else
-- changes.
-- #line directives make a compiler name the template or the spec.
local M = {}

-- header: comment at the top. Fails when the template does not have the mark exactly once.
function M.splice(header, prologue, template, template_path, mark)
  local first, last = template:find(mark, 1, true)
  if not first or template:find(mark, last, true) then
    error(("%s:1: a skeleton must have the line %s exactly once"):format(template_path, mark), 0)
  end
  local before, after = template:sub(1, first - 1), template:sub(last + 1)
  local _, line = before:gsub("\n", "")
  return table.concat {
    header, ('#line 1 "%s"\n'):format(template_path), before, prologue, "\n",
    ('#line %d "%s"'):format(line + 2, template_path), after,
  }
end

return M
