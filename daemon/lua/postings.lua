-- Put before the scripts of the search index. Which job stands where:
--
--   {f}:search            hash: version (changes with every write), mode, at (place in the events up to which all is in),
--                         rebuild (where a rebuild goes on), sweep, kept (where a sweep goes on, what the last one left)
--   {f}:search:segments   hash: number of a segment -> "docs bytes earliest latest", the times of ended jobs in it, in ms
--   {f}:search:live       hash: number of a segment -> how many of its docs are a job's last
--   {f}:search:ids        hash: 3 hex digits of an id's SHA-1 -> entries of 16 bytes: the next 10 digits, segment, slot of
--                         the job's last doc
--   {f}:search:<n>        a segment, at most 1,024 docs: one job as it was when it was indexed. Higher segments and slots
--                         are newer. "<n>": postings of all words whose hash ends with the byte n, 5 bytes each, by slot: 3
--                         bytes of hash, slot. "d<n>": ids of 32 docs, a line each, without the family's tag (with a tab
--                         before it if it has none).
local meta, segments, live, ids = prefix .. 'search', prefix .. 'search:segments', prefix .. 'search:live', prefix .. 'search:ids'
local DOCS, BLOCK, ENTRY, POSTING = 1024, 32, 16, 5
-- What a field of a hash takes beside its value, and how much more than its bytes a value does.
local FIELD, ROUNDED = 64, 1.15

local function segment_key(number) return prefix .. 'search:' .. number end

local function place_of(text, at)
  return struct.unpack('>I4I2', text, at + 10)
end

-- Where a key stands in a string of entries of equal width, from `at` on; nil where it does not.
local function find(text, key, width, at)
  at = string.find(text, key, at or 1, true)
  while at and (at - 1) % width ~= 0 do at = string.find(text, key, at + 1, true) end
  return at
end

local function entry_of(id)
  local hash = redis.sha1hex(id)
  local bucket, key = string.sub(hash, 1, 3), string.sub(hash, 4, 13)
  local text = redis.call('HGET', ids, bucket) or ''
  return find(text, key, ENTRY), text, bucket, key
end

local function last_place(id)
  local at, text = entry_of(id)
  if at then return place_of(text, at) end
end

-- Ids are kept by the line; one that holds a line's end is not indexed.
local function line_of(id)
  return string.sub(id, 1, #prefix) == prefix and string.sub(id, #prefix + 1) or '\t' .. id
end

local function id_of(line)
  return string.sub(line, 1, 1) == '\t' and string.sub(line, 2) or prefix .. line
end

local function ids_of(number, block)
  local found = {}
  for line in string.gmatch(redis.call('HGET', segment_key(number), 'd' .. block) or '', '([^\n]*)\n') do
    found[#found + 1] = id_of(line)
  end
  return found
end

local function segment_of(number)
  local docs, bytes, earliest, latest =
    string.match(redis.call('HGET', segments, number) or '0 0 inf 0', '^(%S+) (%S+) (%S+) (%S+)$')
  return tonumber(docs), tonumber(bytes), tonumber(earliest) or math.huge, tonumber(latest)
end

-- How many docs of each segment became or ceased to be a job's last; noted at the end of the call.
-- One that is dropped, and perhaps written anew, counts from nothing.
local lives, dropped = {}, nil
local function note_live(number, change)
  if change > 0 or number ~= dropped then lives[number] = (lives[number] or 0) + change end
end
local function write_lives()
  for number, change in pairs(lives) do
    if change ~= 0 and redis.call('HEXISTS', segments, num(number)) == 1 then
      redis.call('HINCRBY', live, num(number), num(change))
    end
  end
end

-- The last doc of a job is none any more; only that in a segment, if one is named.
local function drop_id(id, only)
  local at, text, bucket = entry_of(id)
  if not at then return end
  local number = place_of(text, at)
  if only and number ~= only then return end
  note_live(number, -1)
  text = string.sub(text, 1, at - 1) .. string.sub(text, at + ENTRY)
  if text == '' then redis.call('HDEL', ids, bucket) else redis.call('HSET', ids, bucket, text) end
end

local function drop_segment(number)
  dropped = tonumber(number)
  redis.call('UNLINK', segment_key(number))
  redis.call('HDEL', segments, number)
  redis.call('HDEL', live, number)
end

local function run_id()
  local ok, info = pcall(redis.call, 'INFO', 'server')
  return ok and string.match(info, 'run_id:(%x+)') or ''
end
