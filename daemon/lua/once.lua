-- What the steps of a job gave (its receipts), kept until it ends: read, or added to under the token of its claim.
-- ARGV: 3 session, 4 id, 5 claim number, 6 a receipt to add, "step\tjson", or "" to read
-- Returns {1, the receipts, a line each (when reading)}, or {0}: this claim does not hold the job any more, nothing was
-- written.
local session, id, n, receipt = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local entry = redis.call('HGET', held_key(session), id)
if not entry or string.find(entry, n .. ' ', 1, true) ~= 1 then return { 0 } end
local kept = redis.call('HGET', receipts, id)
if receipt == '' then return { 1, kept or '' } end
-- A call whose reply was lost comes twice.
local step = string.match(receipt, '^[^\t]*\t')
if not kept or not string.find('\n' .. kept, '\n' .. step, 1, true) then
  redis.call('HDEL', receipts, id)
  redis.call('HSET', receipts, id, kept and kept .. '\n' .. receipt or receipt)
  weigh({ id })
end
return { 1, '' }
