-- How a hold ends, for settle, release, expire and adjust: one rule, four verbs.

local OPEN_HOLD = 0 -- no TTL while open

-- Reads the holds of a batch and the scopes they took from.
local function read_endings(batch, items)
  read_holds(batch)
  batch.holds = {}
  for _, item in ipairs(items) do
    local raw = batch.records[item.key] or item.retired
    if raw and not batch.holds[item.key] then
      local hold = decode_hold(raw)
      hold.taken, hold.lesser = unpack_taken(hold.rest)
      -- A charge and a consumed call had no hold to be above.
      hold.most = (hold.claims == 0 or has_flag(hold.flags, F_CONSUMED)) and math.huge or hold.held
      hold.least = hold.lesser and math.min(hold.most, hold.lesser[1], hold.lesser[2]) or hold.most
      for _, scope in ipairs(hold.taken) do want(item.org, scope[2]) end
      batch.holds[item.key] = hold
    end
    local hold = batch.holds[item.key]
    local cost = hold and math.max(item.cost or hold.held, hold.cost)
    if hold and cost > hold.least then want_overages(item.org, hold, cost) end
  end
  read_orgs(batch)
end

-- Brings a bucket in line with what was used; answers whether that was beyond what its debt may be.
local function settle_bucket(v, at, kind, item, hold, now)
  if kind == REQUESTS then
    if item.basis == BY_RELEASE then
      refill(v, at, now)
      refund(v, at, now, hold.reserved, 1)
    end
  elseif item.tokens >= 0 and item.tokens ~= hold.tokens then
    refill(v, at, now)
    if item.tokens > hold.tokens then return take_more(v, at, item.tokens - hold.tokens) end
    refund(v, at, now, hold.reserved, hold.tokens - item.tokens)
  end
  return false
end

-- Moves every counter that the hold took from and that still counts the same period. The `first` end
-- gives back what was held, the slot, and (but for expiry) what the buckets gave too much; a correction
-- moves money only. Answers whether all windows are open, and whether a bucket's debt was cut short.
-- Written out like _deciding.lua: it runs for every counter of every hold.
local function move_counters(item, hold, now, amount, first)
  local all, excess, org = true, false, item.org
  local usd, nano = limbs(amount)
  local most_usd, most_nano = limbs(first and hold.held or 0)
  for _, scope in ipairs(hold.taken) do
    local state, layout = open_scope(org, scope[2]), layout_of(scope[3])
    local v, same, place = state and state.v, state and state.layout == scope[3], state and layout_of(state.layout).at
    for i = 1, layout.counters do
      local period, kind, held_usd, held_nano = scope[i + 3], layout.kinds[i], most_usd, most_nano
      if period > LESSER then
        local which = floor(period / LESSER)
        period = period - which * LESSER
        if first then held_usd, held_nano = limbs(hold.lesser[which]) end
      end
      if period > 0 then
        local at = same and (i - 1) * WIDTH or place and place[layout.names[i]]
        if not at or v[at + 1] ~= period then
          if kind == SPEND then all = false end
        elseif kind == SPEND then
          if now >= v[at + 2] then all = false end
          local settled, rest = v[at + 3] + usd, v[at + 4] + nano
          if rest >= NANO then settled, rest = settled + 1, rest - NANO end
          v[at + 3], v[at + 4] = settled, rest
          local held, held_rest = v[at + 5] - held_usd, v[at + 6] - held_nano
          if held_rest < 0 then held, held_rest = held - 1, held_rest + NANO end
          v[at + 5], v[at + 6] = held, held_rest
        elseif kind == CONCURRENCY then
          if first then v[at + 2] = v[at + 2] - 1 end
        elseif first and item.basis ~= BY_EXPIRY then
          excess = settle_bucket(v, at, kind, item, hold, now) or excess
        end
      end
    end
    if state then touch(org, state, now) end
  end
  return all, excess
end

local function answer(hold, repeated)
  return struct.pack('<BBBBI4I8i8', 1, hold.state, hold.basis, repeated, hold.flags, hold.held, hold.cost)
end

-- Whether the hold stays as it is: it has ended on as good a basis, is not due yet, costs what is said, or
-- was given to another caller too, who keeps it.
local function stands(batch, item, hold)
  if item.unclaimed and hold.claims > 1 then
    if hold.state == HELD then
      hold.claims = hold.claims - 1
      put_record(batch, item.key, encode_hold(hold), OPEN_HOLD)
    end
    return true
  end
  if item.adjusts then return hold.state == HELD or item.cost == hold.cost end
  if hold.state ~= HELD then return item.basis <= hold.basis end
  return item.basis == BY_EXPIRY and hold.expires > batch.now
end

-- Ends the item's hold, or corrects its end, or changes nothing. Answers the reply.
local function end_hold(batch, item)
  local now, hold = batch.now, batch.holds[item.key]
  if not hold then
    if item.basis == BY_EXPIRY then drop_due(item.org.shard, member_of(item.org, item.key)) end
    return struct.pack('<B', 0)
  end
  if item.reserved > 0 and item.reserved ~= hold.reserved then return struct.pack('<B', 2) end
  if stands(batch, item, hold) then
    -- A damaged store only: an ended hold in the due index would be in the way for ever.
    if item.basis == BY_EXPIRY and hold.state ~= HELD then drop_due(item.org.shard, member_of(item.org, item.key)) end
    return answer(hold, 1)
  end
  -- What was doubtful about an earlier end is so of this one only if that says so.
  hold.flags = with_flags(without_flag(without_flag(hold.flags, F_ZERO_COST), F_SUSPECT), item.flags)
  if item.basis == BY_EXPIRY then
    item.cost = hold.on_expiry == CHARGE_ON_EXPIRY and hold.held or 0
  end
  local expired = hold.state == EXPIRED or hold.state == HELD and now >= hold.expires
  if expired and item.basis ~= BY_EXPIRY then hold.flags = with_flag(hold.flags, F_LATE) end
  local first = hold.state == HELD
  local amount = first and item.cost or item.cost - hold.cost
  local all, excess = move_counters(item, hold, now, amount, first)
  if item.cost > hold.least or hold.cost > hold.least then move_overages(item.org, hold, item.cost) end
  local member = member_of(item.org, item.key)
  if first then drop_due(item.org.shard, member) end
  if excess then hold.flags = with_flag(hold.flags, F_TOKEN_EXCESS) end
  if not all then hold.flags = with_flag(hold.flags, F_WINDOW_CLOSED) end
  if item.cost > hold.most then
    hold.flags = with_flag(hold.flags, F_OVERAGE)
  elseif has_flag(hold.flags, F_OVERAGE) then
    hold.flags = hold.flags - F_OVERAGE
  end
  hold.state, hold.basis, hold.cost, hold.ended = item.state, item.basis, item.cost, now
  add_row(item.org.shard, first and ROW_SETTLEMENT or ROW_CORRECTION, member, hold, amount, now, item.ending)
  put_record(batch, item.key, encode_hold(hold), item.retention)
  return answer(hold, 0)
end

-- Runs a whole batch of endings: read, decide, write, answer.
local function end_holds(batch, items)
  read_endings(batch, items)
  local replies = {}
  for i, item in ipairs(items) do replies[i] = end_hold(batch, item) end
  write_batch(batch)
  return {text_of(batch.now), unpack(replies)}
end
