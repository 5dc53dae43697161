r"""The scripts that the Redis server runs in one piece, in its own language (Lua).

A timeline is a sorted set: the score is the event's time, the member

    SEQUENCE CONTENT "\n" EVENT_ID

with 16 digits, JSON of item and domain (which holds no line break), and the event's id or nothing.
Members of equal score are sorted by their bytes, thus by the order in which they came.

An event is known if its timeline holds the id at its time, or if one of two sets holds the id. Each
set takes the ids of 30 days and expires 30 days later. So a retry is recognised for ever, and an id
that comes again with another user or time for 30 to 60 days.
"""

from __future__ import annotations

from crossfeed.serving.histories.redis.records import PERIOD_SECONDS, SEQUENCE_DIGITS

__all__ = ["APPEND", "FILL", "FORGET", "MIGRATE", "PIN", "SET_FLAGS"]

_ADD = f"""
local function add(timeline, number, time, content, name)
  local sequence = string.format('%0{SEQUENCE_DIGITS}.0f', number)
  redis.call('ZADD', timeline, time, sequence .. content .. '\\n' .. name)
end
"""

_IS_FORGOTTEN = """
local function is_forgotten(tombstones, user, time)
  local till = redis.call('HGET', tombstones, user)
  return till and tonumber(till) >= tonumber(time)
end
"""

APPEND = f"""
-- KEYS: counter, this period's event ids, the last one's, tombstones, then one timeline per event.
-- ARGV: 'by content' or '', then time, content, event id and tombstone's user per event.
{_ADD}
{_IS_FORGOTTEN}
local function is_in_timeline(timeline, time, content, name, by_content)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', timeline, time, time)) do
    local first, last = {SEQUENCE_DIGITS + 1}, {SEQUENCE_DIGITS} + #content + 1
    if by_content and member:sub(first, last) == content .. '\\n' then return true end
    local its_name = member:sub(member:find('\\n', first, true) + 1)
    if name ~= '' and its_name == name then return true end
  end
  return false
end
local function is_known(timeline, time, content, name)
  if name ~= '' then
    for place = 2, 3 do
      if redis.call('SISMEMBER', KEYS[place], name) == 1 then return true end
    end
  end
  return is_in_timeline(timeline, time, content, name, ARGV[1] == 'by content')
end
local accepted = 0
for place = 5, #KEYS do
  local given = 4 * (place - 5) + 1
  local time, content = ARGV[given + 1], ARGV[given + 2]
  local name, user = ARGV[given + 3], ARGV[given + 4]
  if not is_forgotten(KEYS[4], user, time) and not is_known(KEYS[place], time, content, name) then
    if name ~= '' then redis.call('SADD', KEYS[2], name) end
    add(KEYS[place], redis.call('INCR', KEYS[1]), time, content, name)
    accepted = accepted + 1
  end
end
if redis.call('TTL', KEYS[2]) == -1 then redis.call('EXPIRE', KEYS[2], {2 * PERIOD_SECONDS}) end
return accepted
"""

FILL = f"""
-- KEYS: facts, counter, tombstones, then one timeline per event.
-- ARGV: the origin, 'last' or '', the number of the first event, then time, content and tombstone's
-- user per event.
-- Returns 'ok', 'full', or the other origin of an interrupted fill. Numbers are given by
-- the caller, so that an interrupted fill that runs again writes the same members.
{_ADD}
{_IS_FORGOTTEN}
local origin = redis.call('HGET', KEYS[1], 'filling_from')
if redis.call('HEXISTS', KEYS[1], 'filled_from') == 1 then return 'full' end
if not origin and redis.call('EXISTS', KEYS[2]) == 1 then return 'full' end
if origin and origin ~= ARGV[1] then return origin end
redis.call('HSET', KEYS[1], 'filling_from', ARGV[1])
local number = tonumber(ARGV[3])
for place = 4, #KEYS do
  local given = 3 * (place - 4) + 3
  if not is_forgotten(KEYS[3], ARGV[given + 3], ARGV[given + 1]) then
    add(KEYS[place], number, ARGV[given + 1], ARGV[given + 2], '')
  end
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
-- KEYS: tombstones, the timeline, then sets of event ids. ARGV: the tombstone's user, now.
-- Returns how many events there were.
local members = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
local till = math.max(tonumber(ARGV[2]), tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0))
for place = 1, #members, 2 do
  local member, time = members[place], tonumber(members[place + 1])
  till = math.max(till, time)
  local name = member:sub(member:find('\\n', {SEQUENCE_DIGITS + 1}, true) + 1)
  if name ~= '' then
    for set = 3, #KEYS do redis.call('SREM', KEYS[set], name) end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', till))
redis.call('DEL', KEYS[2])
return #members / 2
"""

SET_FLAGS = """
-- KEYS: the sequence, items out, items put back in. ARGV: 'out' or 'in' and the item, in turn.
-- The score of an item is the sequence of its last change. Returns how many changed.
local sequence = tonumber(redis.call('GET', KEYS[1]) or 0) + 1
local changed = 0
for place = 1, #ARGV, 2 do
  local item, is_out = ARGV[place + 1], redis.call('ZSCORE', KEYS[2], ARGV[place + 1])
  local wanted = ARGV[place] == 'out'
  if wanted ~= (is_out ~= false) then
    redis.call('ZADD', wanted and KEYS[2] or KEYS[3], sequence, item)
    redis.call('ZREM', wanted and KEYS[3] or KEYS[2], item)
    changed = changed + 1
  end
end
if changed > 0 then redis.call('SET', KEYS[1], string.format('%.0f', sequence)) end
return changed
"""

PIN = """
-- KEYS: pins, newest last. ARGV: the version, now, 'only first' or ''. Returns the pin in force.
local last = redis.call('LINDEX', KEYS[1], -1)
local pin = last and cjson.decode(last)
if not pin or (ARGV[3] == '' and pin.version ~= ARGV[1]) then
  last = cjson.encode({
    sequence = pin and pin.sequence + 1 or 1, version = ARGV[1], timestamp = ARGV[2]
  })
  redis.call('RPUSH', KEYS[1], last)
end
return last
"""

MIGRATE = """
-- KEYS: facts, the old items out, the sequence, the new items out, the old event ids, the new ones.
-- ARGV: the version that the caller knows, a salt, how long the new event ids are kept.
-- Returns the version of the keys and their salt. All of it happens, or nothing does.
local version = tonumber(redis.call('HGET', KEYS[1], 'format_version') or 1)
if version < 2 then
  local out = redis.call('SMEMBERS', KEYS[2])
  if #out > 0 then
    local sequence = math.max(1, tonumber(redis.call('GET', KEYS[3]) or 0))
    for _, item in ipairs(out) do redis.call('ZADD', KEYS[4], sequence, item) end
    redis.call('SET', KEYS[3], string.format('%.0f', sequence))
    redis.call('UNLINK', KEYS[2])
  end
  if redis.call('EXISTS', KEYS[5]) == 1 then
    redis.call('RENAME', KEYS[5], KEYS[6])
    redis.call('EXPIRE', KEYS[6], ARGV[3])
  end
  version = 2
  redis.call('HSET', KEYS[1], 'format_version', version)
end
if version == tonumber(ARGV[1]) then redis.call('HSETNX', KEYS[1], 'salt', ARGV[2]) end
return {version, redis.call('HGET', KEYS[1], 'salt') or ''}
"""
