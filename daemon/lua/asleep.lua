-- Put before the prelude of take.lua. Most pops end because nothing came for a while: one look tells, without the time.
local first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
if #first == 0 or tonumber(first[2]) >= 0 then return {} end
