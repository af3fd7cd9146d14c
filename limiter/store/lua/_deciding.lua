-- What the limits of a plan say to a call, and how a call moves them. These loops run for every hold,
-- so they are written out: no function call and no table per limit.

local KEY_DISABLED, KEY_EXPIRED, NEVER_FITS, SPEND_CEILING, SPEND_HELD, REQUEST_RATE, TOKEN_RATE, NO_SLOT =
  2, 3, 6, 7, 8, 9, 10, 11
local INFORMS, REFUSES, SHADOWS, WARNS = 0, 1, 2, 3
local STATUS = '<BBBi8i8i8i8i8'

local function status(s, i, why, v, at)
  return struct.pack(STATUS, s - 1, i, why, v[at + 2], v[at + 3], v[at + 4], v[at + 5], v[at + 6])
end

-- Why a spend limit refuses, or nil. The differences are exact while they are near zero, and of the
-- right sign when they are not.
local function over_ceiling(v, at, rules, r, sum)
  local usd, nano = v[at + 3] + sum.usd - rules[r + 3], v[at + 4] + sum.nano - rules[r + 4]
  if (usd + v[at + 5]) * NANO + nano + v[at + 6] <= 0 or sum.cost == 0 then return nil end
  return usd * NANO + nano > 0 and SPEND_CEILING or SPEND_HELD
end

-- Asks every limit of the plan; writes nothing. Answers the first reason by precedence (nil: granted),
-- the shadow limits that would have refused, and what to tell.
local function check(plan, item)
  local reason, skipped, tell = nil, nil, nil
  local requests, tokens, sums = item.requests, item.tokens, item.lesser
  for s, scope in ipairs(plan.scopes) do
    local v, rules, lesser, at, r = plan.states[s].v, scope.rules, sums and scope.lesser, 0, 0
    for i = 0, scope.limits - 1 do
      local mode = rules[r + 2]
      if mode > 0 then
        local kind, why = rules[r + 1], nil
        if kind == SPEND then
          why = over_ceiling(v, at, rules, r, lesser and sums[lesser[i]] or item)
        elseif kind == CONCURRENCY then
          if v[at + 2] + 1 > rules[r + 3] then why = NO_SLOT end
        else
          local count = kind == REQUESTS and requests or tokens
          if count > 0 and count * rules[r + 5] > v[at + 3] then
            why = count > rules[r + 4] and NEVER_FITS or kind == REQUESTS and REQUEST_RATE or TOKEN_RATE
          end
        end
        if why then
          tell = tell or {nil, nil, nil, nil, nil}
          if mode == SHADOW then
            skipped = skipped or {}
            skipped[s * 64 + i] = true
            tell[#tell + 1] = status(s, i, SHADOWS, v, at)
          else
            if not reason or why < reason then reason = why end
            tell[#tell + 1] = status(s, i, REFUSES, v, at)
          end
        end
      end
      at, r = at + WIDTH, r + RULE
    end
  end
  return reason, skipped, tell
end

-- Takes the item from every limit that applies (and, if a shadow, had room). A consumed call is
-- settled at once and takes no slot.
local function take(batch, plan, item, skipped)
  local spend_at = item.consume and 3 or 5
  local requests, tokens, sums = item.requests, item.tokens, item.lesser
  for s, scope in ipairs(plan.scopes) do
    local v, rules, lesser, at, r = plan.states[s].v, scope.rules, sums and scope.lesser, 0, 0
    for i = 0, scope.limits - 1 do
      if rules[r + 2] > 0 and not (skipped and skipped[s * 64 + i]) then
        local kind = rules[r + 1]
        if kind == SPEND then
          local to, sum = at + spend_at, lesser and sums[lesser[i]] or item
          local rest = v[to + 1] + sum.nano
          if rest >= NANO then
            v[to], v[to + 1] = v[to] + sum.usd + 1, rest - NANO
          else
            v[to], v[to + 1] = v[to] + sum.usd, rest
          end
        elseif kind == CONCURRENCY then
          if not item.consume then v[at + 2] = v[at + 2] + 1 end
        else
          v[at + 3] = v[at + 3] - (kind == REQUESTS and requests or tokens) * v[at + 6]
        end
      end
      at, r = at + WIDTH, r + RULE
    end
    -- Where there are none any more, those that were there are dropped: what is spent now they would not have.
    if scope.limits > 0 or plan.states[s].relaid then touch(plan.org, plan.states[s], batch.now) end
  end
end

local parts, periods = {}, {}

-- The scopes of the taken part of a hold's record. Periods do not change within a batch, so that the usual one,
-- with every limit that applies, is made once for all holds of a plan.
local function taken_scopes(plan, skipped)
  if plan.taken and not skipped then return plan.taken end
  for s, scope in ipairs(plan.scopes) do
    local v, lesser = plan.states[s].v, scope.lesser
    for i = 0, scope.limits - 1 do
      local takes = scope.rules[i * RULE + 2] > 0 and not (skipped and skipped[s * 64 + i])
      periods[i + 1] = takes and v[i * WIDTH + 1] + (lesser and lesser[i] or 0) * LESSER or 0
    end
    parts[s] = scope.limits > 0 and pack_taken(plan.fields[s], scope.layout, scope.limits, periods) or ''
  end
  local taken = table.concat(parts, '', 1, #plan.scopes)
  if not skipped then plan.taken = taken end
  return taken
end

-- The taken part of a hold's record. A hold of one amount names it for the limits that would take a lesser one, too.
local function taken_part(plan, item, skipped)
  local scopes, sums = taken_scopes(plan, skipped), item.lesser
  if not plan.lesser then return scopes end
  return struct.pack(AMOUNTS, 0, sums and sums[1].cost or item.cost, sums and sums[2].cost or item.cost) .. scopes
end

local least, best_s, best_i = {}, {}, {}

-- Tells the state of the tightest enforced limit of each kind, or of all that apply.
local function inform(plan, all, tell)
  local huge = math.huge
  least[1], least[2], least[3], least[4] = huge, huge, huge, huge
  for s, scope in ipairs(plan.scopes) do
    local v, rules, at, r = plan.states[s].v, scope.rules, 0, 0
    for i = 0, scope.limits - 1 do
      local mode = rules[r + 2]
      if all then
        if mode > 0 then tell[#tell + 1] = status(s, i, INFORMS, v, at) end
      elseif mode == ENFORCED then
        local kind, left = rules[r + 1], nil
        if kind == SPEND then
          left = (rules[r + 3] - v[at + 3] - v[at + 5]) * NANO + rules[r + 4] - v[at + 4] - v[at + 6]
        elseif kind == CONCURRENCY then
          left = rules[r + 3] - v[at + 2]
        else
          left = v[at + 3] / rules[r + 5]
        end
        if left < least[kind] then least[kind], best_s[kind], best_i[kind] = left, s, i end
      end
      at, r = at + WIDTH, r + RULE
    end
  end
  for kind = SPEND, CONCURRENCY do
    if least[kind] < huge then
      local s, i = best_s[kind], best_i[kind]
      tell[#tell + 1] = status(s, i, INFORMS, plan.states[s].v, i * WIDTH)
    end
  end
end
