-- The rules of a scope: its limits, as a plan has them, and how they move its counters through time. They are sent once
-- for all scopes of a batch that have the same:
--
--   layout (zero-terminated) · number of limits B · RULE integers i8 per limit:
--     spend        kind, mode, ceiling usd, ceiling nano, first warn, warns, three window bounds
--     bucket       kind, mode, amount, burst, ticks per period, ms per tick, 0, 0, 0
--     concurrency  kind, mode, slots, 0, 0, 0, 0, 0, 0
--   number of thresholds I2 · for each: millionths, usd, nano as i8
--
-- The bounds are: start of the window that was present when the plan was made, start of the next,
-- end of the next. Modes: 0 the limit does not apply to this model, 1 it is enforced, 2 it is a shadow;
-- for spend, 4 more where it takes the first of a hold's lesser amounts, 8 more where it takes the second.

local RULE = 9
local ENFORCED, SHADOW, LESSER_MODE = 1, 2, 4

-- `from` and `till` bound the time that the rules may decide at. `lesser` says which limits take a lesser amount of a
-- hold, and which one; false: none does. Nothing in it changes: several scopes share it.
local function decode_rules(blob)
  local layout, limits, at = struct.unpack('<sB', blob)
  local shared = {layout = layout, limits = limits, rules = {}, warns = false, lesser = false, from = 0,
                  till = math.huge}
  if limits > 0 then
    shared.rules = {struct.unpack(integers[RULE * limits], blob, at)}
    at = shared.rules[RULE * limits + 1]
  end
  local rules = shared.rules
  for r = 0, (limits - 1) * RULE, RULE do
    if rules[r + 1] == SPEND then
      shared.from, shared.till = math.max(shared.from, rules[r + 7]), math.min(shared.till, rules[r + 9])
      local lesser = floor(rules[r + 2] / LESSER_MODE)
      if lesser > 0 then
        shared.lesser = shared.lesser or {}
        shared.lesser[r / RULE], rules[r + 2] = lesser, rules[r + 2] - lesser * LESSER_MODE
      end
    end
  end
  local warns = struct.unpack('<I2', blob, at)
  if warns > 0 then shared.warns = {struct.unpack(integers[3 * warns], blob, at + 2)} end
  return shared
end

-- Starts the counter of one rule: nothing spent, buckets full.
local function start_counter(v, at, rules, r, now, period)
  for i = 1, WIDTH do v[at + i] = 0 end
  v[at + 1] = period
  if rules[r + 1] == SPEND then
    v[at + 2] = now < rules[r + 8] and rules[r + 8] or rules[r + 9]
  elseif rules[r + 1] ~= CONCURRENCY then
    v[at + 2] = floor(now / rules[r + 6])
    v[at + 3] = rules[r + 4] * rules[r + 5]
    v[at + 4], v[at + 5], v[at + 6], v[at + 7] = rules[r + 3], rules[r + 4], rules[r + 5], rules[r + 6]
  end
end

-- The period of counters that start now. Even in the same ms
--   a counter that starts again must not be taken for the one that holds remember: its period is one that no counter
--   of the scope has had, and `last` is never before a period;
--   counters that start before new limits are noted have a lesser period than those that start after: `noted` of the
--   organization is beyond every period that began before (see replace.lua), and none that begins later is before it.
local function first_period(org, last, now)
  if not org.began then
    local found = redis.call('HMGET', org.key, 'began', 'noted')
    org.began, org.noted = tonumber(found[1] or 0), tonumber(found[2] or 0)
  end
  local first = math.max(now, last + 1)
  return org.noted - now <= CLOCK_SLACK_MS and math.max(first, org.noted) or first
end

-- Brings the counters of a scope to the present: an ended window is left behind, never an open one; a
-- bucket refills and takes the policy's present amount and burst.
local function bring_forward(state, scope, now)
  local v, rules, last, at, r = state.v, scope.rules, state.last, 0, 0
  for _ = 1, scope.limits do
    local kind = rules[r + 1]
    if not v[at + 1] then start_counter(v, at, rules, r, now, state.fresh) end
    if kind == SPEND then
      local ended = v[at + 2]
      if now >= ended then
        local start = now < rules[r + 8] and rules[r + 7] or rules[r + 8]
        local finish = now < rules[r + 8] and rules[r + 8] or rules[r + 9]
        v[at + 1], v[at + 2] = math.max(start, ended, v[at + 1] + 1), finish
        for i = 3, WIDTH do v[at + i] = 0 end
      end
    elseif kind ~= CONCURRENCY then
      refill(v, at, now)
      if v[at + 4] ~= rules[r + 3] or v[at + 5] ~= rules[r + 4] then
        v[at + 4], v[at + 5] = rules[r + 3], rules[r + 4]
        local size = rules[r + 4] * rules[r + 5]
        v[at + 3] = math.max(-size, math.min(size, v[at + 3]))
      end
    end
    if v[at + 1] > last then last = v[at + 1] end
    at, r = at + WIDTH, r + RULE
  end
  state.last = last
end
