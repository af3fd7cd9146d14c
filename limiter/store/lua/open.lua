-- Open: lets spend counters start from what was spent in their window before they were there.
--
-- KEYS  due, ledger, epoch of each shard; hash of each organization
-- ARGV  clock_ms · heading (its number: items) · placing · rules · plans of one scope each · one item per counter:
--       plan I2 · period_ms I8 (0: only start the counter and say its period) · usd i8 · nano i8 · epoch I8 · seq i8 ·
--       the counter's name (zero-terminated) · the row's JSON
-- RETURNS  the time, then per item: code B (0, or what is stale; 9: no such counter) · period I8 · usd i8, nano i8:
--          what the counter was opened with in that period by now
-- WRITES  counters, fields opening:… of the hashes, rows
-- COST  O(items × limits)
--
-- An item says what the counter should have been opened with in its present period, by all rows that were in the books
-- up to (epoch, seq); only what that is more or less than before moves. So it does no harm to say it again, or to be
-- late: what an earlier position says is not heard any more.
--
-- What was opened is a field of the organization's hash, opening:[TEAM[/KEY]]:COUNTER:
--   format 1 B · period_ms I8 · usd i8 · nano i8 · epoch I8 · seq i8
-- The period is the counter's, as for an overage.

local NO_COUNTER = 9
local OPENING = '<BI8i8i8I8i8'
local ITEM = '<I2I8i8i8I8i8s'
-- A row's amount is one number, exact below 2^53 nano-USD; a larger opening leaves several rows.
local ROW_USD_MAX = 9000000

local function reply(code, period, usd, nano)
  return struct.pack('<BI8i8i8', code, period, usd, nano)
end

-- What a counter was opened with in one of its periods: usd, nano, epoch, seq.
local function opened(org, field, period)
  if not org.values[field] then return 0, 0, 0, -1 end
  local format, known, usd, nano, epoch, seq = struct.unpack(OPENING, org.values[field])
  if format ~= 1 then error('opening of format ' .. format) end
  if known ~= period then return 0, 0, 0, -1 end
  return usd, nano, epoch, seq
end

local function put_opening(org, field, period, usd, nano, epoch, seq)
  put_field(org, field, struct.pack(OPENING, 1, period, usd, nano, epoch, seq))
end

local function add_rows(batch, item, field, scope, place, period, usd, nano)
  local periods, org = {}, item.plan.org
  for i = 1, scope.limits do periods[i] = i == place and period or 0 end
  local rest = hold_rest(pack_taken(field, scope.layout, scope.limits, periods), item.call)
  local hold = {state = 0, basis = 0, flags = 0, held = 0, cost = 0, tokens = 0, reserved = batch.now,
                expires = batch.now, rest = rest}
  while usd ~= 0 or nano ~= 0 do
    local part = math.max(-ROW_USD_MAX, math.min(ROW_USD_MAX, usd))
    add_row(org.shard, ROW_OPENING, org.name .. '/openings', hold, part * NANO + nano, batch.now, '')
    usd, nano = usd - part, 0
  end
end

local function open(batch, item)
  local plan, now = item.plan, batch.now
  if plan.stale == 'unknown' then plan.stale = out_of_date(plan, now) end
  if plan.stale then return reply(STALE[plan.stale], 0, 0, 0) end
  local org, field, scope, state = plan.org, plan.fields[1], plan.scopes[1], plan.states[1]
  local layout = layout_of(scope.layout)
  local at = layout.at[item.counter]
  if not at or layout.kinds[at / WIDTH + 1] ~= SPEND then return reply(NO_COUNTER, 0, 0, 0) end
  local v, period = state.v, state.v[at + 1]
  local usd, nano, epoch, seq = opened(org, item.field, period)
  if item.period == 0 then touch(org, state, now) end
  local newer = item.epoch > epoch or item.epoch == epoch and item.seq > seq
  if item.period ~= period or not newer then return reply(0, period, usd, nano) end
  -- What moves, as limbs of which the second is that of a whole: below zero only the first is. Never below nothing.
  local by = {item.usd - usd, item.nano - nano}
  if by[2] < 0 then by = {by[1] - 1, by[2] + NANO} end
  if (by[1] + v[at + 3]) * NANO + by[2] + v[at + 4] < 0 then
    by = {-v[at + 3], -v[at + 4]}
    if by[2] < 0 then by = {by[1] - 1, by[2] + NANO} end
  end
  local function moved(to_usd, to_nano)
    local rest = to_nano + by[2]
    if rest >= NANO then return to_usd + by[1] + 1, rest - NANO end
    return to_usd + by[1], rest
  end
  if by[1] ~= 0 or by[2] ~= 0 then
    v[at + 3], v[at + 4] = moved(v[at + 3], v[at + 4])
    usd, nano = moved(usd, nano)
    touch(org, state, now)
    add_rows(batch, item, field, scope, at / WIDTH + 1, period, by[1], by[2])
  end
  put_opening(org, item.field, period, usd, nano, item.epoch, item.seq)
  return reply(0, period, usd, nano)
end

local batch = open_batch(store_time(ARGV[1]), ARGV[2], ARGV[3])
local items, plans = {}, decode_plans(batch)
for i = 1, batch.extra do
  local blob, item, plan, at = ARGV[batch.before_items + i], {}, nil, nil
  plan, item.period, item.usd, item.nano, item.epoch, item.seq, item.counter, at = struct.unpack(ITEM, blob)
  item.plan, item.call = plans[plan + 1], string.sub(blob, at)
  item.field = 'opening:' .. string.sub(item.plan.fields[1], 7) .. ':' .. item.counter
  want(item.plan.org, item.field)
  items[i] = item
end
read_holds(batch)
read_orgs(batch)
local replies = {}
for i, item in ipairs(items) do replies[i] = open(batch, item) end

-- write
write_batch(batch)
return {text_of(batch.now), unpack(replies)}
