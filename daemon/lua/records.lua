-- Put before every script, the prelude too: how scripts read and write a job's record.
--
-- A record begins with q<level><enqueued ms>[,<deadline ms>[,<timeout ms>]] <function>\t<group>, then \t and a schema or
-- \n and the body; level and stamp in hexadecimal digits (daemon/records.py).

-- Finds the function in a header without a time limit of its own. It makes no strings, which are what a claim mostly costs,
-- but the function's name, which is always the same few.
local USUAL = '^q%x%x+,?%d* ([^\t\n]*)\t'
-- The same, and where its level ends, where its stamp ends, and where the name does.
local USUAL_PARTS = '^q%x()%x+(),?%d* ([^\t\n]*)\t()'

-- Level, stamp as it stands there, time limit and deadline in ms, 0 for none.
local function header(record)
  if not record then return nil end
  local level, stamp, deadline, timeout = string.match(record, '^q(%x)(%x+),?(%d*),?(%d*) ')
  if level then
    return tonumber(level, 16), stamp, math.min(tonumber(timeout) or 0, 1e12), math.min(tonumber(deadline) or 0, 1e15)
  end
end

-- A stamp as headers have it.
local function stamp_of(ms) return string.format('%x', ms) end

local function new_header(level, stamp, timeout, deadline)
  local form = timeout > 0 and 'q%x%s,%d,%d ' or deadline > 0 and 'q%x%s,%d ' or 'q%x%s '
  return string.format(form, level, stamp, deadline, timeout)
end

-- What stands behind the header.
local function tail_of(record) return string.match(record, '^q%x%x+[,%d]* (.*)$') end

-- Function and group.
local function names_of(record)
  return string.match(record or '', '^q%x%x+[,%d]* ([^\t\n]*)\t([^\t\n]*)')
end

local function function_of(record) return names_of(record) or '' end

local function group_of(record)
  local _, group = names_of(record)
  return group or ''
end
