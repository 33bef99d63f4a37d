-- What the replicas of one bot share, and the steps in which it changes: who waits in which
-- seat, and of each bucket the version, the latest grant and who is next.
--
-- A step orders, compares and counts. What the numbers are is up to Python: which bucket a
-- shard is in, how long to keep after a grant, until when a shard is slowed down, how many
-- starts there are. No step decides when a bucket opens: a claim names the version that its
-- replica knows, and the replica knows since when. So the server's clock, which may step, is
-- only good for ages: of absent seats, of pauses, of starts.
--
-- KEYS: the name that all keys begin with. ARGV: the step, the era, its arguments in JSON.
-- Answers are JSON, too. Every step may be executed twice, and long after it was sent.

local base, step, era = KEYS[1], ARGV[1], ARGV[2]
local given = cjson.decode(ARGV[3])

local STATE = base .. ':state'        -- run, era, keep, seats, grants; bucket:<bucket>: JSON
local EVENTS = base .. ':events'      -- news of all buckets, for all replicas
local PLACES = base .. ':places'      -- place: its seats and requests, in JSON
local READY = base .. ':ready:'       -- <bucket>: places with somebody here, by best seat
local ASIDE = base .. ':aside:'       -- <bucket>: such places, by when they are eligible
local ABSENT = base .. ':absent'      -- places with absent seats, by when the last one left
local SLOWED = base .. ':slowed'      -- shards that are slowed down, by when they are eligible
local PLACE_OF = base .. ':place-of'  -- request: its place
local HELD = base .. ':held:'         -- <replica>: its requests
local BEATS = base .. ':beats'        -- replica: how often its heart has beaten, or BURIED
local GIVEN_UP = base .. ':given-up'  -- claims that were not reported, by when the next came
local STARTS = base .. ':starts'      -- the grants of a day, by when they were given

-- What one step touches at most, so that it never holds up the others for long.
local PORTION = 100

-- A replica that is so many events behind has been taken for dead long ago.
local EVENTS_KEPT = 1000

local HOUR, DAY = 3600000, 86400000
local BURIED = 'buried'

local call = redis.call

-- Milliseconds have 13 digits; Lua and JSON round numbers of more than 14.
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The process that executes this: a restart and a promotion make it another.
local run = string.match(call('INFO', 'server'), 'run_id:(%x+)')

local function replica_of(request)
  return string.match(request, '^(.*)/')
end

-- Places ---------------------------------------------------------------------------------
-- A place: its bucket; its seats {number, since}, the best first; its requests, the newest
-- last; and, if they stand aside, until when.

local function place_at(key)
  local json = call('HGET', PLACES, key)
  return json and cjson.decode(json)
end

local function keep_place(key, place)
  local ready, aside = READY .. place.bucket, ASIDE .. place.bucket
  call('ZREM', ready, key)
  call('ZREM', aside, key)
  if #place.requests == 0 then
    place.aside = nil
  elseif place.aside then
    call('ZADD', aside, place.aside, key)
  else
    call('ZADD', ready, place.seats[1][1], key)
  end
  if #place.seats == 0 then
    call('HDEL', PLACES, key)
  else
    call('HSET', PLACES, key, cjson.encode(place))
  end
  if #place.seats > #place.requests then
    call('ZADD', ABSENT, 'NX', now, key)
  else
    call('ZREM', ABSENT, key)
  end
end

local function put_back(place, seat)
  local at = 1
  while place.seats[at] and place.seats[at][1] < seat[1] do
    at = at + 1
  end
  if not (place.seats[at] and place.seats[at][1] == seat[1]) then
    table.insert(place.seats, at, seat)
  end
end

local function register(request, key)
  call('HSET', PLACE_OF, request, key)
  call('SADD', HELD .. replica_of(request), request)
end

local function unregister(request)
  call('HDEL', PLACE_OF, request)
  call('SREM', HELD .. replica_of(request), request)
end

-- A request's shard is slowed down until then; nil if it never was too often.
local function slowed_until(shard)
  return shard and tonumber(call('ZSCORE', SLOWED, shard) or nil)
end

-- A client has left: its seat is kept for a while, unless it named no shard.
local function leave(request)
  local key = call('HGET', PLACE_OF, request)
  unregister(request)
  local place = key and place_at(key)
  if not place then
    return
  end
  for at, other in ipairs(place.requests) do
    if other == request then
      table.remove(place.requests, at)
      break
    end
  end
  if key == request then
    place.seats = {}
  else
    call('ZADD', ABSENT, now, key)
  end
  keep_place(key, place)
  return place.bucket
end

-- Buckets --------------------------------------------------------------------------------
-- A bucket: its version, how many seconds to keep after the latest grant, whether that
-- grant's answer has been written, the claim that is not reported yet, and who was next when
-- that was last told.

local function bucket_at(bucket)
  local json = call('HGET', STATE, 'bucket:' .. bucket)
  if json then
    return cjson.decode(json)
  end
  return { version = 0, keep = tonumber(call('HGET', STATE, 'keep')), written = false }
end

-- Who stands aside and is eligible by now is in the line again.
local function rejoin(bucket)
  for _, key in ipairs(call('ZRANGEBYSCORE', ASIDE .. bucket, '-inf', now, 'LIMIT', 0, PORTION)) do
    local place = place_at(key)
    place.aside = nil
    keep_place(key, place)
  end
end

-- The best place of those whose newest request is not held by one of these replicas.
local function best(bucket, silent)
  for _, key in ipairs(call('ZRANGE', READY .. bucket, 0, PORTION - 1)) do
    local place = place_at(key)
    local request = place.requests[#place.requests]
    if not silent[replica_of(request)] then
      return key, place, request
    end
  end
end

local function standing(bucket, state)
  rejoin(bucket)
  local _, _, head = best(bucket, {})
  local again_in
  if not head then
    local first = call('ZRANGE', ASIDE .. bucket, 0, 0, 'WITHSCORES')
    again_in = first[2] and math.max(0, first[2] - now) / 1000
  end
  return {
    bucket = bucket,
    version = state.version,
    before = state.version,
    what = 'standing',
    keep = state.keep,
    written = state.written,
    head = head,
    again_in = again_in,
  }
end

-- Keep a bucket's state, and tell it to all.
local function tell(bucket, state, what, more)
  local news = standing(bucket, state)
  news.what = what
  for key, value in pairs(more or {}) do
    news[key] = value
  end
  state.told = { head = news.head, aside = news.again_in and true }
  call('HSET', STATE, 'bucket:' .. bucket, cjson.encode(state))
  call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'news', cjson.encode(news))
end

local function tell_new(bucket, state, what, after)
  local before = state.version
  state.version = before + 1
  tell(bucket, state, what, { before = before, after = after })
end

-- If others are next now in these buckets, tell that.
local function tell_heads(buckets)
  for bucket in pairs(buckets) do
    local state = bucket_at(bucket)
    local news = standing(bucket, state)
    local told = state.told or {}
    if news.head ~= told.head or (news.again_in and true) ~= told.aside then
      tell(bucket, state, 'standing')
    end
  end
end

-- The seat of a claim whose grant may have reached nobody is kept for its shard.
local function give_up(claim)
  call('ZADD', GIVEN_UP, now, claim.id)
  call('ZREMRANGEBYSCORE', GIVEN_UP, '-inf', now - HOUR)
  if not claim.shard then
    return
  end
  local place = place_at(claim.shard)
    or { bucket = claim.bucket, seats = {}, requests = {} }
  put_back(place, claim.seat)
  call('ZADD', ABSENT, now, claim.shard)
  keep_place(claim.shard, place)
end

-- Steps ----------------------------------------------------------------------------------

local steps = {}

-- {replica, keep, buckets} -> the era, how the buckets stand, and the last event until then.
-- If another process keeps the state, or it was lost, a new era begins: every bucket is an
-- unknown past, which is over after so many seconds.
function steps.join()
  local state = call('HMGET', STATE, 'run', 'era')
  era = state[2]
  if state[1] ~= run or not era then
    for _, field in ipairs(call('HKEYS', STATE)) do
      local bucket = string.match(field, '^bucket:(.*)')
      if bucket then
        local claim = bucket_at(bucket).claim
        if claim then
          give_up(claim)
        end
        call('HDEL', STATE, field)
      end
    end
    era = string.sub(run, 1, 8) .. '-' .. time[1] .. '-' .. time[2]
    local seats = math.max((tonumber(call('HGET', STATE, 'seats')) or 0) + 1000, now)
    call('HSET', STATE, 'run', run, 'era', era, 'keep', given.keep, 'seats', seats)
  end
  call('HSET', BEATS, given.replica, 0)
  local buckets = {}
  for bucket = 0, given.buckets - 1 do
    buckets[bucket + 1] = standing(bucket, bucket_at(bucket))
  end
  local last = call('XREVRANGE', EVENTS, '+', '-', 'COUNT', 1)[1]
  return { era = era, buckets = buckets, event = last and last[1] or '0-0' }
end

-- {requests: [{request, bucket, shard?, seat?}]} -> the seats that they take. With the number
-- of the seat that it had, a request is told again: nobody who came later is newer.
function steps.arrive()
  local buckets, seats = {}, {}
  for _, arrival in ipairs(given.requests) do
    local request = arrival.request
    local key = arrival.shard and string.format('%.0f', arrival.shard) or request
    local place = place_at(key)
      or { bucket = arrival.bucket, seats = {}, requests = {} }
    if call('HEXISTS', PLACE_OF, request) == 0 then
      if #place.requests == 0 then
        place.aside = slowed_until(arrival.shard and key)
      end
      if arrival.seat then
        put_back(place, { arrival.seat, now - (arrival.age or 0) * 1000 })
      end
      if #place.seats <= #place.requests then
        table.insert(place.seats, { call('HINCRBY', STATE, 'seats', 1), now })
      end
      table.insert(place.requests, arrival.seat and 1 or #place.requests + 1, request)
      register(request, key)
      keep_place(key, place)
    end
    table.insert(seats, place.seats[#place.requests][1])
    buckets[place.bucket] = true
  end
  tell_heads(buckets)
  return { seats = seats }
end

-- {requests: [request]}
function steps.leave()
  local buckets = {}
  for _, request in ipairs(given.requests) do
    local bucket = leave(request)
    if bucket then
      buckets[bucket] = true
    end
  end
  tell_heads(buckets)
  return {}
end

-- {bucket, version, claim, request, keep, silent: [replica], pause?, starts?: {since, most}}
-- -> the grant's number, the version that it makes, and how long its seat was kept; or `no`,
-- the reason. `pause`: seconds for which its shard is slowed down then. `starts`: so many at
-- most may be granted since `since`.
function steps.claim()
  local bucket = given.bucket
  local state = bucket_at(bucket)
  if state.version ~= given.version then
    return { no = 'stale' }
  end
  local silent = {}
  for _, replica in ipairs(given.silent) do
    silent[replica] = true
  end
  -- Who claims has waited for the window of the claim before, too.
  if state.claim then
    give_up(state.claim)
    state.claim = nil
    tell(bucket, state, 'standing')
  end
  rejoin(bucket)
  local key, place, request = best(bucket, silent)
  if request ~= given.request then
    tell_heads({ [bucket] = true })
    return { no = 'other' }
  end
  local starts = given.starts
  if starts and call('ZCOUNT', STARTS, starts.since, '+inf') >= starts.most then
    return { no = 'starts' }
  end
  local shard = key ~= request and key or nil
  local number = call('HINCRBY', STATE, 'grants', 1)
  local claim = {
    id = given.claim,
    bucket = bucket,
    shard = shard,
    request = request,
    seat = table.remove(place.seats, 1),
    grant = number,
    slowed = slowed_until(shard),
    before = { keep = state.keep, written = state.written },
  }
  table.remove(place.requests)
  unregister(request)
  if shard and given.pause then
    place.aside = now + given.pause * 1000
    call('ZADD', SLOWED, place.aside, shard)
  end
  keep_place(key, place)
  call('ZADD', STARTS, now, number)
  state.claim, state.keep, state.written = claim, given.keep, false
  tell_new(bucket, state, 'claimed')
  return { grant = number, version = state.version, waited = (now - claim.seat[2]) / 1000 }
end

-- {bucket, claim, keep, late}: the answer has been written, `late` if after its window.
function steps.handed_over()
  local state = bucket_at(given.bucket)
  if state.claim and state.claim.id == given.claim then
    state.claim, state.written = nil, true
    if given.late then
      tell_new(given.bucket, state, 'put_off', given.keep)
    else
      tell(given.bucket, state, 'handed_over')
    end
  elseif call('ZREM', GIVEN_UP, given.claim) == 1 then
    state.keep = math.max(state.keep, given.keep)
    tell_new(given.bucket, state, 'put_off', given.keep)
  end
  return {}
end

-- {bucket, version, claim, here} -> what was done. The answer of a claim, which named that
-- version, was not written and never will be: everything is as if it had not been claimed.
-- Where it was not executed, it never will be. `gone`: something else came of the bucket.
function steps.void()
  local bucket = given.bucket
  local state = bucket_at(bucket)
  local claim = state.claim
  if claim and claim.id == given.claim and state.version == given.version + 1 then
    local key = claim.shard or claim.request
    local place = place_at(key) or { bucket = bucket, seats = {}, requests = {} }
    if claim.shard then
      call('ZREM', SLOWED, claim.shard)
      if claim.slowed then
        call('ZADD', SLOWED, claim.slowed, claim.shard)
      end
    end
    if claim.shard or given.here then
      put_back(place, claim.seat)
    end
    if given.here then
      table.insert(place.requests, claim.request)
      register(claim.request, key)
    elseif claim.shard then
      call('ZADD', ABSENT, now, key)
    end
    place.aside = claim.slowed
    keep_place(key, place)
    call('ZREM', STARTS, claim.grant)
    state.claim, state.keep, state.written = nil, claim.before.keep, claim.before.written
    tell_new(bucket, state, 'given_back')
    return { done = 'given_back' }
  elseif state.version == given.version then
    tell_new(bucket, state, 'forestalled')
    return { done = 'forestalled' }
  end
  return { done = 'gone' }
end

-- {replica, ttl} -> the beats of all, or `no` if others took it for dead. Forgets the seats of
-- clients who left so many seconds ago or longer.
function steps.beat()
  local beats = call('HGET', BEATS, given.replica)
  if not beats or beats == BURIED then
    return { no = 'buried' }
  end
  call('HINCRBY', BEATS, given.replica, 1)
  for _, key in ipairs(
    call('ZRANGEBYSCORE', ABSENT, '-inf', now - given.ttl * 1000, 'LIMIT', 0, PORTION)
  ) do
    local place = place_at(key)
    for at = #place.seats, #place.requests + 1, -1 do
      table.remove(place.seats, at)
    end
    keep_place(key, place)
  end
  call('ZREMRANGEBYSCORE', SLOWED, '-inf', now)
  call('ZREMRANGEBYSCORE', STARTS, '-inf', now - DAY)
  local all = {}
  local pairs_of = call('HGETALL', BEATS)
  for at = 1, #pairs_of, 2 do
    all[pairs_of[at]] = tonumber(pairs_of[at + 1]) -- a buried one has none
  end
  return { beats = all }
end

-- {replica, beats?} -> how many of its requests are left. A replica whose heart has not beaten
-- since holds nobody any more: its clients have left. Without `beats` it says so itself.
function steps.bury()
  local beats = call('HGET', BEATS, given.replica)
  if given.beats and beats ~= BURIED and tonumber(beats) ~= given.beats then
    return { left = 0 }
  end
  call('HSET', BEATS, given.replica, BURIED)
  local buckets = {}
  for _, request in ipairs(call('SRANDMEMBER', HELD .. given.replica, PORTION)) do
    local bucket = leave(request)
    if bucket then
      buckets[bucket] = true
    end
  end
  tell_heads(buckets)
  local left = call('SCARD', HELD .. given.replica)
  if left == 0 then
    call('HDEL', BEATS, given.replica)
  end
  return { left = left }
end

local state = call('HMGET', STATE, 'run', 'era')
if step ~= 'join' and (state[1] ~= run or state[2] ~= era) then
  return cjson.encode({ no = 'era' })
end
return cjson.encode(steps[step]())
