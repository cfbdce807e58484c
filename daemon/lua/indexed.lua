-- What an indexer has to know before it writes. ARGV: nothing more.
-- Returns {server's run id, {f}:search, {f}:search:segments and {f}:search:live as fields and values, "search" in the
-- settings, 1 if the events behind the index's place are all there, its newest entry}. Reads only.
local m = redis.call('HGETALL', meta)
local events, at, whole = prefix .. 'events', nil, 1
for i = 1, #m, 2 do
  if m[i] == 'at' then at = m[i + 1] end
end
local newest = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
if at and #redis.call('XRANGE', events, at, at) == 0 then
  -- Trimmed, or never one: the next entry tells by its place how many bytes were written before it.
  local following = redis.call('XRANGE', events, '(' .. at, '+', 'COUNT', 1)[1]
  local before = tonumber(string.match(at, '%-(%d+)$'))
  if following then
    whole = tonumber(string.match(following[1], '%-(%d+)$')) == before + #following[2][2] + EVENT_OVERHEAD and 1 or 0
  elseif tonumber(redis.call('HGET', clock, 'events') or 0) ~= before then
    whole = 0
  end
end
return { run_id(), m, redis.call('HGETALL', segments), redis.call('HGETALL', live), redis.call('HGET', conf, 'search') or '',
  whole, newest and newest[1] or '' }
