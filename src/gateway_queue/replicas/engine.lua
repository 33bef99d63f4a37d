-- The steps that change the state shared by all replicas. Each is atomic, and changes nothing for a
-- caller from another era. What is in a row, an event or a message is up to Python.
--
-- The era ends when the state is lost, or when another process holds it: after a restart, a
-- promotion, FLUSHALL, an old dump. It also ends when one of the keys is lost, for example to
-- eviction, without which a grant might be forgotten. Lost news shows as a gap in the numbers, which only
-- grow, whatever Redis's clock does.

local base, step, era = KEYS[1], ARGV[1], ARGV[2]
local given = cjson.decode(ARGV[3])

local STATE = base .. ':state'        -- run, era, term, leader, settings; see `number`, `are_lost`
local BEATS = base .. ':beats'        -- replica: the number of its heartbeats
local OFFERS = base .. ':offers'      -- era; each unsettled offer: open, withdrawn, or its row
local NUMBERS = base .. ':numbers'    -- bot: the number of its latest grant
local EVENTS = base .. ':events'      -- for all replicas of this era
local INBOX = base .. ':to:'          -- <era>:<replica>: messages for one of them
local GRANTS = base .. ':grants:'     -- <bot>: the grants of a day, by time

-- A replica that is further behind has been considered dead for a long time.
local EVENTS_KEPT, MESSAGES_KEPT = 10000, 5000

local DAY = 86400000

-- Nobody reads the inbox of a dead replica. It is kept for so long that setting Redis's clock
-- forward by a day loses nothing.
local INBOX_KEPT = 2 * DAY

-- Change this whenever a key or a field changes its meaning: versions that keep the state
-- differently then never share an era.
local LAYOUT = '2'

local OPEN, WITHDRAWN = 'open', 'withdrawn'

-- If another program has written a key, Redis's error does not name it.
local function call(command, key, ...)
  local answer = redis.pcall(command, key, ...)
  if type(answer) == 'table' and answer.err then
    error(answer.err .. ' (' .. command .. ' ' .. key .. ')')
  end
  return answer
end

local time = redis.call('TIME')

-- The process that executes this: a different one after a restart or a promotion.
local run = LAYOUT .. '-' .. string.match(call('INFO', 'server'), 'run_id:(%x+)')

-- The next of the `events` or of the `messages`.
local function number(what)
  return string.format('%d-0', call('HINCRBY', STATE, what, 1))
end

local function tell(event)
  call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, number('events'), 'event', event)
end

local function say(to, entry)
  local inbox = INBOX .. era .. ':' .. to
  call('XADD', inbox, 'MAXLEN', '~', MESSAGES_KEPT, number('messages'), 'entry', entry)
  call('PEXPIRE', inbox, INBOX_KEPT)
end

-- The row of the grant, if an offer was taken; otherwise nil.
local function row_of(offer)
  local found = call('HGET', OFFERS, offer)
  return found and found ~= OPEN and found ~= WITHDRAWN and found or nil
end

local state = call('HMGET', STATE, 'run', 'era', 'term')
local is_known = state[1] == run and state[2] and call('HGET', OFFERS, 'era') == state[2]

local steps = {}

-- Whether a bot was granted in this era, and its grants or their number are gone. Whoever leads
-- next would not know that one of them was with `confirm`, or how many of Discord's session starts
-- they used up.
local function are_lost(bot)
  return call('HGET', STATE, 'grants:' .. bot) == era
    and (call('EXISTS', GRANTS .. bot) == 0 or call('HEXISTS', NUMBERS, bot) == 0)
end

local function end_era()
  call('HDEL', STATE, 'run')
  return { no = 'era' }
end

-- Whether this server has replicas, or used to be one.
local function has_replicas()
  local about = call('INFO', 'replication')
  local offset = string.match(about, 'second_repl_offset:(%-?%d+)')
  return not string.find(about, 'connected_slaves:0') or offset ~= '-1'
end

-- {replica, events: the number of the last that it has heard} -> the era, who leads, and the
-- number of the last event. If there are fewer in its era, an earlier state was restored.
function steps.join()
  local events = tonumber(call('HGET', STATE, 'events')) or 0
  local is_restored = era == state[2] and events < given.events
  era = state[2]
  if not is_known or is_restored then
    era = string.sub(run, 1, 10) .. '-' .. time[1] .. '-' .. time[2]
    -- Higher than all earlier ones, even if they were forgotten.
    local term = math.max((tonumber(state[3]) or 0) + 1, tonumber(time[1]))
    call('HSET', STATE, 'run', run, 'era', era, 'term', term, 'leader', '')
    call('DEL', BEATS, OFFERS, EVENTS)
    call('HSET', OFFERS, 'era', era)
  end
  call('HSET', BEATS, given.replica, 0)
  local now = call('HMGET', STATE, 'term', 'leader', 'events', 'settings')
  return {
    era = era,
    term = tonumber(now[1]),
    leader = now[2],
    events = tonumber(now[3]) or 0,
    has_replicas = has_replicas(),
    settings = now[4] or nil,
  }
end

-- {replica} -> who leads, the number of the last event, and all heartbeats; `no` if this one was
-- considered dead.
function steps.beat()
  if call('HEXISTS', BEATS, given.replica) == 0 then
    return { no = 'buried' }
  end
  call('HINCRBY', BEATS, given.replica, 1)
  local state = call('HMGET', STATE, 'term', 'leader', 'events')
  local beats, all = call('HGETALL', BEATS), {}
  for at = 1, #beats, 2 do
    all[beats[at]] = tonumber(beats[at + 1])
  end
  return {
    term = tonumber(state[1]),
    leader = state[2],
    events = tonumber(state[3]) or 0,
    beats = all,
  }
end

-- {replica, term, settings} -> the term that begins; `no` if the given one is over.
function steps.lead()
  if tonumber(call('HGET', STATE, 'term')) ~= given.term then
    return { no = 'term' }
  end
  local fields = call('HGETALL', STATE)
  for at = 1, #fields, 2 do
    local bot = string.match(fields[at], '^grants:(.*)$')
    if bot and are_lost(bot) then
      return end_era()
    end
  end
  local term = given.term + 1
  call('HSET', STATE, 'term', term, 'leader', given.replica, 'settings', given.settings)
  call('DEL', OFFERS)
  call('HSET', OFFERS, 'era', era)
  tell(cjson.encode({ what = 'led', term = term, leader = given.replica }))
  return { term = term, time = time[1] * 1000 + math.floor(time[2] / 1000) }
end

-- {replica}: forget it, and everything of it.
function steps.bury()
  call('HDEL', BEATS, given.replica)
  call('DEL', INBOX .. era .. ':' .. given.replica)
  return {}
end

-- {to, entry}
function steps.say()
  say(given.to, given.entry)
  return {}
end

-- {event}
function steps.tell()
  tell(given.event)
  return {}
end

-- {bot, offer, event}: a grant was not given to its client, and never will be. If the offer was not
-- taken, it cannot be any more.
function steps.void()
  local row = row_of(given.offer)
  if row then
    call('XDEL', GRANTS .. given.bot, row)
  end
  if call('HGET', OFFERS, given.offer) == OPEN or row then
    call('HSET', OFFERS, given.offer, WITHDRAWN)
    tell(given.event)
  end
  return {}
end

-- {bot, number, offer, row, event}: take an offer, which is the grant. `no` if it is not open.
function steps.take()
  if call('HGET', OFFERS, given.offer) ~= OPEN then
    return { no = 'offer' }
  end
  if are_lost(given.bot) then
    return end_era()
  end
  local grants = GRANTS .. given.bot
  local row = call('XADD', grants, 'MINID', '~', time[1] * 1000 - DAY, '*', 'row', given.row)
  call('HSET', OFFERS, given.offer, row)
  call('HSET', NUMBERS, given.bot, given.number)
  call('HSET', STATE, 'grants:' .. given.bot, era)
  tell(given.event)
  return {}
end

-- Steps for the leader only; they are refused once its term is over.
local leaders = {}

-- {replica}
function leaders.resign()
  call('HSET', STATE, 'leader', '')
  tell(cjson.encode({ what = 'resigned', term = given.term }))
  return {}
end

-- {offer, to, entry}
function leaders.offer()
  if call('HSETNX', OFFERS, given.offer, OPEN) == 1 then
    say(given.to, given.entry)
  end
  return {}
end

-- {offer} -> whether it was taken. If not, it never can be, even if it has yet to arrive.
function leaders.withdraw()
  if row_of(given.offer) then
    return { taken = true }
  end
  call('HSET', OFFERS, given.offer, WITHDRAWN)
  return { taken = false }
end

-- {fields: {key: {field: value}}, gone: {key: [field]}, events: [event], settled: [offer]}: the
-- offers are forgotten, as nothing more will be asked about them.
function leaders.note()
  for key, fields in pairs(given.fields or {}) do
    for field, value in pairs(fields) do
      call('HSET', base .. ':' .. key, field, value)
    end
  end
  for key, fields in pairs(given.gone or {}) do
    for _, field in ipairs(fields) do
      call('HDEL', base .. ':' .. key, field)
    end
  end
  for _, event in ipairs(given.events or {}) do
    tell(event)
  end
  for _, offer in ipairs(given.settled or {}) do
    call('HDEL', OFFERS, offer)
  end
  return {}
end

if step ~= 'join' and (not is_known or state[2] ~= era) then
  return cjson.encode({ no = 'era' })
end
local act = steps[step]
if not act then
  if tonumber(state[3]) ~= given.term then
    return cjson.encode({ no = 'term' })
  end
  act = leaders[step]
end
return cjson.encode(act())
