r"""What the Redis server does in one piece, in its own language (Lua).

A timeline is a sorted set: the score is the event's time, the member

    SEQUENCE CONTENT "\n" EVENT_ID

with 16 digits, JSON of item and domain (which holds no line break), and the event's id or nothing.
Members of equal score are sorted by their bytes, thus by the order in which they came.
"""

from __future__ import annotations

__all__ = ["APPEND", "FILL", "FORGET", "SEQUENCE_DIGITS"]

SEQUENCE_DIGITS = 16

_ADD = f"""
local function add(timeline, number, time, content, name)
  local sequence = string.format('%0{SEQUENCE_DIGITS}.0f', number)
  redis.call('ZADD', timeline, time, sequence .. content .. '\\n' .. name)
end
"""

APPEND = f"""
-- KEYS: counter, event ids, then one timeline per event.
-- ARGV: 'by content' or '', then time, content and event id per event.
{_ADD}
local function is_known(timeline, time, content)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', timeline, time, time)) do
    local first, last = {SEQUENCE_DIGITS + 1}, {SEQUENCE_DIGITS} + #content + 1
    if member:sub(first, last) == content .. '\\n' then return true end
  end
  return false
end
local accepted = 0
for place = 3, #KEYS do
  local given = 3 * (place - 3) + 1
  local time, content, name = ARGV[given + 1], ARGV[given + 2], ARGV[given + 3]
  local known = ARGV[1] == 'by content' and is_known(KEYS[place], time, content)
  if not known and name ~= '' then known = redis.call('SADD', KEYS[2], name) == 0 end
  if not known then
    add(KEYS[place], redis.call('INCR', KEYS[1]), time, content, name)
    accepted = accepted + 1
  end
end
return accepted
"""

FILL = f"""
-- KEYS: facts, counter, then one timeline per event.
-- ARGV: the origin, 'last' or '', the number of the first event, then time and content per event.
-- Returns 'ok', 'full', or the other origin of a fill that was broken off. Numbers are given by
-- the caller, so that filling again what was broken off writes the same members.
{_ADD}
local origin = redis.call('HGET', KEYS[1], 'filling_from')
if redis.call('HEXISTS', KEYS[1], 'filled_from') == 1 then return 'full' end
if not origin and redis.call('EXISTS', KEYS[2]) == 1 then return 'full' end
if origin and origin ~= ARGV[1] then return origin end
redis.call('HSET', KEYS[1], 'filling_from', ARGV[1])
local number = tonumber(ARGV[3])
for place = 3, #KEYS do
  local given = 2 * (place - 3) + 3
  add(KEYS[place], number, ARGV[given + 1], ARGV[given + 2], '')
  number = number + 1
end
if number - 1 > tonumber(redis.call('GET', KEYS[2]) or 0) then
  redis.call('SET', KEYS[2], string.format('%.0f', number - 1))
end
if ARGV[2] == 'last' then
  redis.call('HDEL', KEYS[1], 'filling_from')
  if redis.call('EXISTS', KEYS[2]) == 1 then
    redis.call('HSET', KEYS[1], 'filled_from', ARGV[1])
  end
end
return 'ok'
"""

FORGET = f"""
-- KEYS: event ids, the timeline. Returns how many events there were.
local members = redis.call('ZRANGE', KEYS[2], 0, -1)
for _, member in ipairs(members) do
  local name = member:sub(member:find('\\n', {SEQUENCE_DIGITS + 1}, true) + 1)
  if name ~= '' then redis.call('SREM', KEYS[1], name) end
end
redis.call('DEL', KEYS[2])
return #members
"""
