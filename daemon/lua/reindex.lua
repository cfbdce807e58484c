-- Empties the search index, to be built again from the jobs, or for good.
-- ARGV: 3 what is to be indexed ("" for nothing any more)
-- Returns 1.
for _, number in ipairs(redis.call('HKEYS', segments)) do redis.call('UNLINK', segment_key(number)) end
local version = tonumber(redis.call('HGET', meta, 'version') or nil) or now_us
redis.call('UNLINK', meta, segments, live, ids)
if ARGV[3] == '' then return 1 end
-- Without any event: behind the bytes that were ever written, which is where the first one will begin (lua/events.lua).
local last = redis.call('XREVRANGE', prefix .. 'events', '+', '-', 'COUNT', 1)[1]
local at = last and last[1] or '0-' .. (redis.call('HGET', clock, 'events') or '0')
redis.call('HSET', meta, 'version', num(version + 1), 'mode', ARGV[3], 'at', at, 'rebuild', 'dead', 'kept', '0')
return 1
