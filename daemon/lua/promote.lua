-- Lets delayed jobs (also those that wait for a retry) run now, behind what waits at their level.
-- ARGV: 3... ids
-- Returns one word per id: "promoted", "not_delayed" (it waits or runs already, or has ended), or "not_found".
redis.call('DEL', mark)
local words = {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local score = tonumber(redis.call('ZSCORE', queue, id) or nil)
  local word = 'not_delayed'
  if score and score >= now + 1 and score < HELD then
    local record = get('arq:job:' .. id)
    place(id, level_of(score, record), record)
    tell('promoted', id, function_of(record))
    word = 'promoted'
  elseif not score and redis.call('EXISTS', 'arq:job:' .. id, 'arq:result:' .. id) == 0 then
    word = 'not_found'
  end
  words[#words + 1] = word
end
set_mark()
write_events()
return words
