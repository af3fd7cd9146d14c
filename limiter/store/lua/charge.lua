-- Charge: books spend that had no hold; never refused for money. Moves money only.
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization; record of each charge
-- ARGV  clock_ms · heading · placing · rules · plans · one item per charge: plan I2 · flags I4 · cost I8 ·
--       occurred_ms I8 (0: now) · retention_ms I8 · fingerprint c16 · size of the call I4 · the call (JSON) ·
--       the end (JSON)
-- RETURNS  the time, then per charge: code B · state B · repeated B · flags I4 · cost I8
-- WRITES  records, counters, one row per charge booked
-- COST  O(charges × limits)

local BOOKED, EXISTS = 0, 2

local function reply(code, hold, repeated)
  return struct.pack('<BBBI4I8', code, hold and hold.state or 0, repeated, hold and hold.flags or 0,
    hold and hold.cost or 0)
end

-- Adds the cost to every spend limit that applies and whose present window the call fell in; a
-- shadow limit without room takes nothing. Answers the taken part and whether all windows were open.
local function book(batch, item)
  local plan, all, parts = item.plan, true, {}
  for s, scope in ipairs(plan.scopes) do
    local v, rules, periods = plan.states[s].v, scope.rules, {}
    for i = 0, scope.limits - 1 do
      local at, r = i * WIDTH, i * RULE
      periods[i + 1] = 0
      if rules[r + 1] == SPEND and rules[r + 2] > 0 then
        local start = batch.now < rules[r + 8] and rules[r + 7] or rules[r + 8]
        if item.occurred < start then
          all = false
        elseif rules[r + 2] == ENFORCED or not over_ceiling(v, at, rules, r, item) then
          add_money(v, at + 3, item.cost)
          periods[i + 1] = v[at + 1]
        end
      end
    end
    parts[s] = ''
    if scope.limits > 0 or plan.states[s].relaid then touch(plan.org, plan.states[s], batch.now) end
    if scope.limits > 0 then
      parts[s] = pack_taken(plan.fields[s], scope.layout, scope.limits, periods)
    end
  end
  return table.concat(parts), all
end

local function decide(batch, item)
  local plan, raw = item.plan, batch.records[item.key]
  if plan.stale == 'unknown' then plan.stale = out_of_date(plan, batch.now) end
  if plan.stale and plan.stale ~= 'clock' then return reply(STALE[plan.stale], nil, 0) end
  local old = raw and decode_hold(raw)
  if old and not (old.state == RELEASED and has_flag(old.flags, F_UNCLAIMED)) then
    if old.fingerprint == item.fingerprint then return reply(BOOKED, old, 1) end
    return reply(EXISTS, old, 0)
  end
  local now = batch.now
  local hold = {state = SETTLED, basis = BY_USAGE, on_expiry = CHARGE_ON_EXPIRY, flags = item.flags, claims = 0,
                reserved = now, expires = now, expires_max = now, ended = now, held = 0, cost = item.cost, tokens = 0,
                output_max = -1, fingerprint = item.fingerprint}
  if item.occurred == 0 then item.occurred = now end
  local taken, all = book(batch, item)
  if not all then hold.flags = with_flag(hold.flags, F_WINDOW_CLOSED) end
  hold.rest = hold_rest(taken, item.call)
  if plan.warns then warn(batch, plan, item, {}) end
  hold.reserved = item.occurred
  add_row(plan.org.shard, ROW_CHARGE, member_of(plan.org, item.key), hold, item.cost, now, item.ending)
  put_record(batch, item.key, encode_hold(hold), item.retention)
  return reply(BOOKED, hold, 0)
end

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
local items, plans = {}, decode_plans(batch)
for i = 1, batch.items do
  local blob, item, plan, size, at = ARGV[batch.before_items + i], {key = KEYS[batch.first_hold + i]}, nil, nil, nil
  plan, item.flags, item.cost, item.occurred, item.retention, item.fingerprint, size, at =
    struct.unpack('<I2I4I8I8I8c16I4', blob)
  item.plan, item.call, item.ending = plans[plan + 1], string.sub(blob, at, at + size - 1), string.sub(blob, at + size)
  item.usd, item.nano = limbs(item.cost)
  items[i] = item
end
read_holds(batch)
read_orgs(batch)
local replies = {}
for i = 1, batch.items do replies[i] = decide(batch, items[i]) end

-- write
write_batch(batch)
return {text_of(batch.now), unpack(replies)}
