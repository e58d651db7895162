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

-- Puts the texts of the headers in the place of `#include "name"`, each once, as they guard
-- themselves; read(name) -> path, text. #line directives keep a compiler's messages at the sources.
function M.inline(text, path, read, seen)
  local out, line = {}, 0
  seen = seen or {}
  for whole in text:gmatch("[^\n]*\n?") do
    line = line + 1
    local number, file = whole:match('^#line (%d+) "(.-)"')
    local header = whole:match('^%s*#include "([^"]+)"')
    if number then line, path = tonumber(number) - 1, file end
    if not header then
      out[#out + 1] = whole
    elseif not seen[header] then
      seen[header] = true
      local header_path, header_text = read(header)
      out[#out + 1] = ('#line 1 "%s"\n%s#line %d "%s"\n'):format(header_path,
        M.inline(header_text, header_path, read, seen), line + 1, path)
    else
      out[#out + 1] = "\n"
    end
  end
  return table.concat(out)
end

return M
