-- Sends dead letters back to their queue: same id, tries and crashes start anew, the history stays, an old deadline
-- does not count any more. One that failed by a child runs with the results that are there.
-- ARGV: 3... ids
-- Returns one word per id: "retried", "not_failed" (it is in another state), or "not_found".
local words, back = {}, {}
for i = 3, #ARGV do
  local id = ARGV[i]
  local key = 'arq:job:' .. id
  local record = redis.call('ZSCORE', dead, id) and get(key)
  if record then
    local level, stamp, timeout = header(record)
    redis.call('UNLINK', 'arq:result:' .. id, 'arq:retry:' .. id)
    redis.call('ZREM', dead, id)
    back[#back + 1] = id
    unkeep({ id })
    if level then redis.call('SET', key, new_header(level, stamp, timeout, 0) .. tail_of(record)) end
    if not level or level < 1 then level = default_level() end
    place(id, math.min(level, 10), record)
    rerun(id)
    weigh({ id })
    tell('redriven', id, function_of(record))
    words[#words + 1] = 'retried'
  elseif redis.call('EXISTS', key, 'arq:result:' .. id) > 0 then
    words[#words + 1] = 'not_failed'
  else
    words[#words + 1] = 'not_found'
  end
end
if #back > 0 then
  unarchive(back, 'retried')
  drop_causes(back)
end
set_mark()
write_events()
return words
