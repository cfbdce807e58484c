-- Removes jobs and all they left, in any state but active.
-- ARGV: 3... ids
-- Returns one word per id: "removed", "active" (abort it first), or "not_found".
redis.call('DEL', mark)
local words = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local score = tonumber(redis.call('ZSCORE', queue, id) or nil)
  if score and (score >= HELD and score < SUSPECT or holder(id) or stock_held({ id })[id]) then
    words[#words + 1] = 'active'
  elseif score or redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) > 0 then
    for _, index in ipairs({ completed, dead, aborted, expired }) do redis.call('ZREM', index, id) end
    unarchive({ id }, 'discarded')
    drop_causes({ id })
    finish({ { 'a', 0, '0', name_of(id), '', id, '' } }, 'removed')
    redis.call('UNLINK', 'arq:result:' .. id)
    weigh({ id })
    words[#words + 1] = 'removed'
  else
    words[#words + 1] = 'not_found'
  end
end
set_mark()
set_suspects()
write_events()
return words
