-- Removes dead letters for good, with all they left.
-- ARGV: 3... ids
-- Returns one word per id: "discarded", "not_failed" (it is in another state), or "not_found".
local words, found = {}, {}
for i = 3, #ARGV do
  local id = ARGV[i]
  if redis.call('ZSCORE', dead, id) then
    found[#found + 1] = id
    words[#words + 1] = 'discarded'
  elseif redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) > 0 then
    words[#words + 1] = 'not_failed'
  else
    words[#words + 1] = 'not_found'
  end
end
unarchive(found, 'discarded')
forget(dead, found)
for _, id in ipairs(found) do tell('removed', id, '') end
write_events()
return words
