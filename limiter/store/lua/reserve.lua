-- Reserve: grants holds that every enforced limit on their path has room for, all or nothing.
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization; record of each hold
-- ARGV  clock_ms ('' for TIME) · heading · placing · rules · plans · one item per hold
-- RETURNS  the time, then per hold: code B · state or reason B · flags B · expires I8 · held I8 ·
--          output max i8 · number of statuses B · per status: scope B, limit B, why B, five i8
-- WRITES  records, counters, due index; rows for consumed calls and for thresholds passed
-- COST  O(holds × limits); commands: MGET, HMGET and HSET per organization, ZADD per shard, MSET
--
-- First half: everything is read and decided in memory. Second half: write_batch.


local GRANTED, DENIED, EXISTS, ENDED, BACKLOG = 0, 1, 2, 3, 8
local REPEATED, DUE_WAITING = 1, 2
local ITEM = '<I2BBBBBI4I8I8I8I8I8I8I8i8c16B'
local RECORD = HEAD .. 'I2'

local function sum_of(cost)
  local usd, nano = limbs(cost)
  return {cost = cost, usd = usd, nano = nano}
end

-- An item ends with the call; before it, where its last number is 1, are the lesser amounts: I8I8.
local function decode_item(blob, key, plans)
  local plan, dry_run, all, consume, on_expiry, requests, flags, cost, tokens, ttl, lifetime, retention, key_expires,
    secret_expires, output_max, fingerprint, further, at = struct.unpack(ITEM, blob)
  local usd, lesser = floor(cost / NANO), false
  if further == 1 then
    local first, second
    first, second, at = struct.unpack('<I8I8', blob, at)
    lesser = {sum_of(first), sum_of(second)}
  end
  return {key = key, plan = plans[plan + 1], dry_run = dry_run == 1, all = all == 1, consume = consume == 1,
          on_expiry = on_expiry, requests = requests, flags = flags, lesser = lesser,
          cost = cost, usd = usd, nano = cost - usd * NANO, tokens = tokens,
          ttl = ttl, lifetime = lifetime, retention = retention, key_expires = key_expires,
          secret_expires = secret_expires, output_max = output_max, fingerprint = fingerprint,
          call = string.sub(blob, at)}
end

local function reply(code, state, flags, expires, held, output_max, tell)
  local told = tell and #tell or 0
  local head = struct.pack('<BBBI8I8i8B', code, state, flags, expires or 0, held or 0, output_max or -1, told)
  if told == 0 then return head end
  table.insert(tell, 1, head)
  return table.concat(tell)
end

-- Whether holds of the shard are due; asked only when a refusal could end with them.
local function due_waiting(batch, shard, reason)
  if reason ~= SPEND_HELD and reason ~= SPEND_CEILING and reason ~= NO_SLOT then return 0 end
  if shard.due_waiting == nil then
    shard.due_waiting = redis.call('ZCOUNT', shard.due, '-inf', text_of(batch.now)) > 0
  end
  return shard.due_waiting and DUE_WAITING or 0
end

-- The answer that an existing record gives to the same id, or nil if it stands in nobody's way.
local function known(batch, item)
  local raw = batch.records[item.key]
  if not raw or item.dry_run then return nil end
  local hold = decode_hold(raw)
  if hold.state == RELEASED and has_flag(hold.flags, F_UNCLAIMED) then return nil end
  if hold.fingerprint ~= item.fingerprint then return reply(EXISTS, hold.state, 0) end
  if hold.state ~= HELD then return reply(ENDED, hold.state, 0) end
  if hold.expires <= batch.now then return reply(ENDED, EXPIRED, 0) end
  hold.claims = hold.claims + 1
  put_record(batch, item.key, encode_hold(hold), 0)
  local tell = {nil, nil, nil, nil, nil}
  inform(item.plan, item.all, tell)
  return reply(GRANTED, HELD, REPEATED, hold.expires, hold.held, hold.output_max, tell)
end

-- The record of a new hold.
local function record_of(item, now, flags, taken)
  return struct.pack(RECORD, 1, HELD, 0, item.on_expiry, flags, 1, now, now + item.ttl, now + item.lifetime, 0,
    item.cost, 0, item.tokens, item.output_max, item.fingerprint, #taken) .. taken .. item.call
end

local function consume(batch, item, flags, taken)
  local now, org = batch.now, item.plan.org
  local hold = {state = SETTLED, basis = BY_USAGE, on_expiry = item.on_expiry, flags = flags + F_CONSUMED, claims = 1,
                reserved = now, expires = now, expires_max = now + item.lifetime, ended = now, held = item.cost,
                cost = item.cost,
                tokens = item.tokens, output_max = item.output_max, fingerprint = item.fingerprint,
                rest = hold_rest(taken, item.call)}
  add_row(org.shard, ROW_SETTLEMENT, member_of(org, item.key), hold, item.cost, now, '')
  put_record(batch, item.key, encode_hold(hold), item.retention)
end

local function grant(batch, item, skipped, tell)
  local now, plan, state, expires = batch.now, item.plan, HELD, batch.now + item.ttl
  tell = tell or {nil, nil, nil, nil, nil}
  if not item.dry_run then
    local flags, taken = item.flags, taken_part(plan, item, skipped)
    if skipped then flags = with_flag(flags, F_SHADOWED) end
    take(batch, plan, item, skipped)
    if plan.warns then warn(batch, plan, item, tell) end
    if item.consume then
      state, expires = SETTLED, now
      consume(batch, item, flags, taken)
    else
      add_due(plan.org.shard, expires, member_of(plan.org, item.key))
      put_record(batch, item.key, record_of(item, now, flags, taken), 0)
    end
  end
  inform(plan, item.all, tell)
  return reply(GRANTED, state, 0, expires, item.cost, item.output_max, tell)
end

local function decide(batch, item)
  local plan = item.plan
  local shard = plan.org.shard
  if plan.stale == 'unknown' then plan.stale = out_of_date(plan, batch.now) end
  if plan.stale then return reply(STALE[plan.stale], 0, 0) end
  local expired = (item.key_expires > 0 and batch.now >= item.key_expires)
    or (item.secret_expires > 0 and batch.now >= item.secret_expires)
  if plan.denial > 0 and (plan.denial <= KEY_DISABLED or not expired) then return reply(DENIED, plan.denial, 0) end
  if expired then return reply(DENIED, KEY_EXPIRED, 0) end
  local answer = known(batch, item)
  if answer then return answer end
  if batch.extra > 0 and not item.dry_run then
    shard.rows_waiting = shard.rows_waiting or redis.call('XLEN', shard.ledger)
    if shard.rows_waiting >= batch.extra then return reply(BACKLOG, 0, 0) end
  end
  local reason, skipped, tell = check(plan, item)
  if not reason then return grant(batch, item, skipped, tell) end
  if item.all then inform(plan, true, tell) end
  return reply(DENIED, reason, due_waiting(batch, shard, reason), 0, 0, -1, tell)
end

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
local items, plans = {}, decode_plans(batch)
for i = 1, batch.items do items[i] = decode_item(ARGV[batch.before_items + i], KEYS[batch.first_hold + i], plans) end
read_holds(batch)
read_orgs(batch)
local replies = {}
for i = 1, batch.items do replies[i] = decide(batch, items[i]) end

-- write
write_batch(batch)
return {text_of(batch.now), unpack(replies)}
