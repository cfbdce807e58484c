-- Renews a session's leases in families without a job: what renew.lua repairs for jobs is not needed there. Stands alone.
-- KEYS: of each family the sessions, the queue and what the session publishes (daemon/keys.py), all in one place.
-- ARGV: 1 "" or a test's clock in ms, 2 session; of each family 3 when it was renewed before, ms ("": it registered then),
--   4 lease ms, 5 what to publish of its worker ("": as before)
-- Returns {now, of each family 1, or 0: it needs renew.lua, since it has jobs, or does not know the session, or the server
--   may have been away (that has to be noted before anything looks as if it had not) or its clock went back}.
local now, session = tonumber(ARGV[1]), ARGV[2]
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local queues = {}
for i = 2, #KEYS, 3 do queues[#queues + 1] = KEYS[i] end
local some = redis.call('EXISTS', unpack(queues)) > 0

local function renewed(sessions, queue, published, before, lease, info)
  if before == '' then before = (tonumber(redis.call('ZSCORE', sessions, session) or nil) or 0) - lease end
  local since = now - before
  if since < 0 or since > lease / 2 or some and redis.call('EXISTS', queue) == 1 then return 0 end
  local known = redis.call('ZADD', sessions, 'XX', 'CH', string.format('%.17g', now + lease), session)
  if known == 1 and info ~= '' then redis.call('HSET', published, 'info', info) end
  return known
end

local reply = { now }
for i = 1, #queues do
  local k, a = 3 * i - 2, 3 * i
  reply[i + 1] = renewed(KEYS[k], KEYS[k + 1], KEYS[k + 2], ARGV[a], tonumber(ARGV[a + 1]), ARGV[a + 2])
end
return reply
