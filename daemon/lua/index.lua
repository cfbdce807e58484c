-- Writes a portion of the search index, all in one segment, with the place in the events it brings the index to.
-- ARGV: 3 the server's run id and 4 the index's version when what led to this was read, 5 an entry of the events up to which
--   all is in now ("" none), 6 segment to write, 7 its docs, 8 segment that is dropped first ("" none), 9 "1": jobs that are
--   indexed already are left as they are (their docs stand unused), 10 and 11 earliest and latest end of these jobs (ms),
--   12 how many pairs of fields and values of {f}:search follow; then number of jobs that are gone and their ids, number of
--   docs and their ids by slot; then field and postings, field and postings ...
-- Returns 1, or 0 and does nothing: another indexer was there, or the server is not what it was (it restarted, lost events,
-- or dropped them). Read again, then.
if (redis.call('HGET', meta, 'version') or '') ~= ARGV[4] or run_id() ~= ARGV[3] then return 0 end
if ARGV[5] ~= '' and #redis.call('XRANGE', prefix .. 'events', ARGV[5], ARGV[5]) == 0 then return 0 end
local number, first, keep = ARGV[6], tonumber(ARGV[7]), ARGV[9] == '1'

local at = 13 + 2 * ARGV[12]
-- First of all: a full server refuses it before anything is written.
redis.call('HSET', meta, 'version', num(tonumber(ARGV[4]) + 1), unpack(ARGV, 13, at - 1))
if ARGV[5] ~= '' then redis.call('HSET', meta, 'at', ARGV[5]) end
if ARGV[8] ~= '' then drop_segment(ARGV[8]) end

for i = at + 1, at + ARGV[at] do drop_id(ARGV[i]) end
at = at + ARGV[at] + 1

local _, bytes, earliest, latest = segment_of(number)
local key = segment_key(number)
local function append(field, text)
  local old = redis.call('HGET', key, field)
  redis.call('HSET', key, field, (old or '') .. text)
  bytes = bytes + #text * ROUNDED + (old and 0 or FIELD)
end

local function set_place(id, slot)
  local found, text, bucket, hash = entry_of(id)
  local place = struct.pack('>I4I2', tonumber(number), slot)
  if not found then
    redis.call('HSET', ids, bucket, text .. hash .. place)
  elseif keep then
    return
  else
    note_live((place_of(text, found)), -1)
    redis.call('HSET', ids, bucket, string.sub(text, 1, found + 9) .. place .. string.sub(text, found + ENTRY))
  end
  note_live(tonumber(number), 1)
end

local count = tonumber(ARGV[at])
local lines, block = {}, math.floor(first / BLOCK)
for i = 1, count do
  local slot = first + i - 1
  if math.floor(slot / BLOCK) > block then
    append('d' .. block, table.concat(lines))
    lines, block = {}, math.floor(slot / BLOCK)
  end
  lines[#lines + 1] = line_of(ARGV[at + i]) .. '\n'
  set_place(ARGV[at + i], slot)
end
if #lines > 0 then append('d' .. block, table.concat(lines)) end
for i = at + count + 1, #ARGV, 2 do append(ARGV[i], ARGV[i + 1]) end

if count > 0 then
  -- Each doc has an entry in {f}:search:ids, too.
  bytes = bytes + count * ENTRY * ROUNDED
  redis.call('HSET', segments, number, table.concat({ num(first + count), num(math.floor(bytes)),
    num(math.min(earliest, tonumber(ARGV[10]) or math.huge)), num(math.max(latest, tonumber(ARGV[11]))) }, ' '))
end
write_lives()
return 1
