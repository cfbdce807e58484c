-- Takes the scheduler's lease if nobody else has it, on a full server too: who leads also tells that it is full.
-- Stands alone. KEYS: 1 the lease. ARGV: 1 who takes it, 2 for how long, ms.
-- Returns how long another still has it, ms; -1 when it is taken.
local left = redis.call('PTTL', KEYS[1])
if left > 0 and redis.call('GET', KEYS[1]) ~= ARGV[1] then return left end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return -1
