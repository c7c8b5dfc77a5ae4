-- Refuses the JSON bodies that Triton would misread, by the name of the field, and tells models the client's connection.
--
-- Triton 2.51 turns 4294967300 into 4, and answers null or a list of the wrong kind by 500 without a name. Only the
-- kinds of values are checked here, and their number, as Triton looks for each name among all others: a body that is no JSON for another reason is Triton's to refuse.

local DEEPEST, MOST_NAMES, MOST_VALUES = 64, 1000, 100000
local FIELD, HEADER = "triton_hf2triton_connection", "x-hf2triton-connection"
local UNREADABLE = "the body must be a JSON object, at most " .. DEEPEST .. " levels deep, its names without escapes"
local TOO_MANY = "the body has more than " .. MOST_NAMES .. " names or " .. MOST_VALUES .. " values"
local NULL = {}

local function refuse(said)
  error({said = said}, 0)
end

-- Reading: a string is read as '"' and its first characters, a number as its text, a list as {list = {...}}, an
-- object as {pairs = {{name, value}, ...}}.

local function string_at(text, at)
  local position = at + 1
  while true do
    local quote = text:find('["\\]', position)
    if not quote then refuse(UNREADABLE) end
    if text:byte(quote) == 34 then return text:sub(at, math.min(quote - 1, at + 128)), quote + 1 end
    position = quote + 2
  end
end

local function after_blanks(text, at)
  return text:find("[^ \t\r\n]", at) or refuse(UNREADABLE)
end

local names, values

local WORDS = {t = {"true", true}, f = {"false", false}, n = {"null", NULL}}
local value_at

-- Calls ``read`` for each element up to the closing bracket; returns where it goes on.
local function elements(text, at, closing, read)
  local position = after_blanks(text, at + 1)
  if text:sub(position, position) == closing then return position + 1 end
  while true do
    position = after_blanks(text, read(position))
    local mark = text:sub(position, position)
    if mark == closing then return position + 1 end
    if mark ~= "," then refuse(UNREADABLE) end
    position = after_blanks(text, position + 1)
  end
end

local function list_at(text, at, depth)
  local list = {}
  local position = elements(text, at, "]", function(start)
    local value, rest = value_at(text, start, depth)
    list[#list + 1] = value
    return rest
  end)
  return {list = list}, position
end

local function object_at(text, at, depth)
  local found = {}
  local position = elements(text, at, "}", function(start)
    if text:byte(start) ~= 34 then refuse(UNREADABLE) end
    names = names + 1
    if names > MOST_NAMES then refuse(TOO_MANY) end
    local name, colon = string_at(text, start)
    colon = after_blanks(text, colon)
    if text:sub(colon, colon) ~= ":" or name:find("\\", 1, true) then refuse(UNREADABLE) end
    local value, rest = value_at(text, after_blanks(text, colon + 1), depth)
    found[#found + 1] = {name:sub(2), value}
    return rest
  end)
  return {pairs = found}, position
end

value_at = function(text, at, depth)
  values = values + 1
  if values > MOST_VALUES then refuse(TOO_MANY) end
  local mark = text:sub(at, at)
  if mark == '"' then return string_at(text, at) end
  if mark == "{" or mark == "[" then
    if depth == DEEPEST then refuse(UNREADABLE) end
    return (mark == "{" and object_at or list_at)(text, at, depth + 1)
  end
  local word = WORDS[mark]
  if word and text:sub(at, at + #word[1] - 1) == word[1] then return word[2], at + #word[1] end
  local number = text:match("^-?%d+%.?%d*[eE]?[+-]?%d*", at)
  if not number then refuse(UNREADABLE) end
  return number, at + #number
end

-- Kinds of values: how an error describes them, and what is of the kind.

local function is_string(value) return type(value) == "string" and value:byte() == 34 end
local function is_number(value) return type(value) == "string" and value:byte() ~= 34 end

local function whole(least, most)
  local function fits(value)
    if not is_number(value) or not value:find("^-?%d+$") then return false end
    return tonumber(value) >= least and tonumber(value) <= most
  end
  return {said = string.format("a whole number from %.0f to %.0f", least, most), fits = fits}
end

local function number(said, least, most)
  return {said = said, fits = function(value)
    return is_number(value) and tonumber(value) ~= nil and tonumber(value) >= least and tonumber(value) <= most
  end}
end

local function list_of(kind, said) return {said = said, fits = kind.fits, many = true} end

local FLOAT = 3.4e38
local STRING = {said = "a string", fits = is_string}
local ID = {said = "a string", fits = is_string, alone = true}
local BOOLEAN = {said = "true or false", fits = function(value) return type(value) == "boolean" end}
local INT32 = whole(-2 ^ 31, 2 ^ 31 - 1)
local REAL = number("a number", -FLOAT, FLOAT)
local NOT_NEGATIVE = number("a number that is not negative", 0, FLOAT)
local WORD_LIST = list_of(STRING, "a list of strings")
local ID_LIST = list_of(INT32, "a list of whole numbers below 2147483648")
local REAL_LIST = list_of(REAL, "a list of numbers")
local WHOLE = {said = "a whole number from 0 to 9223372036854775807", fits = whole(0, 2 ^ 63).fits}

-- The inputs of the models that are served, whichever target made them.
local OPTIONS = {
  id = ID, text_input = STRING, bad_words = WORD_LIST, stop_words = WORD_LIST,
  max_tokens = INT32, min_tokens = INT32, end_id = INT32, pad_id = INT32, top_k = INT32,
  seed = WHOLE, random_seed = WHOLE,
  temperature = NOT_NEGATIVE, top_p = NOT_NEGATIVE,
  repetition_penalty = REAL, presence_penalty = REAL, frequency_penalty = REAL,
  exclude_input_in_output = BOOLEAN, return_num_input_tokens = BOOLEAN, return_num_output_tokens = BOOLEAN,
  stream = BOOLEAN, use_raw_prompt = BOOLEAN,
  beam_width = INT32, num_return_sequences = INT32, length_penalty = REAL, len_penalty = REAL,
  early_stopping = BOOLEAN, beam_search_diversity_rate = REAL,
  return_log_probs = BOOLEAN, return_context_logits = BOOLEAN, return_generation_logits = BOOLEAN,
  return_perf_metrics = BOOLEAN,
  decoder_text_input = STRING, embedding_bias_words = WORD_LIST, embedding_bias_weights = REAL_LIST,
  guided_decoding_guide_type = STRING, guided_decoding_guide = STRING,
  prompt_vocab_size = INT32, prompt_table_extra_id = WHOLE, lora_task_id = WHOLE,
  prompt_embedding_table = REAL_LIST, lora_weights = REAL_LIST, lora_config = ID_LIST,
  input_ids = ID_LIST, bad_words_list = ID_LIST, stop_words_list = ID_LIST,
  input_lengths = INT32, request_output_len = INT32, runtime_top_k = INT32, runtime_top_p = NOT_NEGATIVE,
  streaming = BOOLEAN, stop = BOOLEAN,
}
local NEEDED = {"text_input", "max_tokens"}
local WITHOUT = {tensorrt_llm = true, tensorrt_llm_bls = true}  -- the models that need neither
local DATATYPES = {
  BOOL = BOOLEAN, BYTES = STRING, BF16 = REAL, FP16 = REAL, FP32 = REAL, FP64 = number("a number", -1.7e308, 1.7e308),
  INT8 = whole(-2 ^ 7, 2 ^ 7 - 1), INT16 = whole(-2 ^ 15, 2 ^ 15 - 1), INT32 = INT32,
  INT64 = whole(-2 ^ 63, 2 ^ 63), UINT8 = whole(0, 2 ^ 8 - 1), UINT16 = whole(0, 2 ^ 16 - 1),
  UINT32 = whole(0, 2 ^ 32 - 1), UINT64 = whole(0, 2 ^ 64),
}

-- Triton takes a list of one element for the element.
local function fits(kind, value)
  local list = type(value) == "table" and value.list
  if not list then return kind.fits(value) end
  if kind.alone or not kind.many and #list ~= 1 then return false end
  for _, one in ipairs(list) do
    if not kind.fits(one) then return false end
  end
  return true
end

local function check_options(object, given)
  for _, pair in ipairs(object.pairs) do
    local name, value = pair[1], pair[2]
    local kind = OPTIONS[name]
    if kind and not fits(kind, value) then refuse(name .. " must be " .. kind.said) end
    if name == "parameters" then
      if type(value) ~= "table" or not value.pairs then refuse("parameters must be an object") end
      check_options(value, given)
    end
    given[name] = value
  end
end

local function check_generate(body, path)
  local given = {}
  check_options(body, given)
  for _, name in ipairs(WITHOUT[path:match("^/v2/models/([^/]+)")] and {} or NEEDED) do
    if given[name] == nil then refuse(name .. " must be given, and be " .. OPTIONS[name].said) end
  end
  if given.stream == true and not path:find("generate_stream", 1, true) then
    refuse("stream is true: an answer in pieces is asked of generate_stream")
  end
end

local function check_data(name, kind, value)
  if type(value) ~= "table" or not value.list then
    if not kind.fits(value) then refuse(name .. " must be " .. kind.said) end
    return
  end
  for _, one in ipairs(value.list) do check_data(name, kind, one) end
end

local function check_infer(body)
  for _, pair in ipairs(body.pairs) do
    for _, input in ipairs(pair[1] == "inputs" and type(pair[2]) == "table" and pair[2].list or {}) do
      local given = {}
      for _, field in ipairs(type(input) == "table" and input.pairs or {}) do
        if given[field[1]] == nil then given[field[1]] = field[2] end  -- as Triton, which takes the first
      end
      local name = is_string(given.name) and given.name:match('^"([%w_]+)$') or "an input"
      local kind = is_string(given.datatype) and DATATYPES[given.datatype:sub(2)]
      if not kind then refuse("datatype of " .. name .. " must be one of Triton's") end
      if given.shape ~= nil then check_data("shape of " .. name, DATATYPES.UINT32, given.shape) end
      if given.data ~= nil then check_data(name, kind, given.data) end
    end
  end
end

local function read(text)
  names, values = 0, 0
  local start = text:find("[^ \t\r\n]")
  if not start or text:byte(start) ~= 123 then refuse(UNREADABLE) end
  return (object_at(text, start, 1))
end

function envoy_on_request(handle)
  local body, path = handle:body(), handle:headers():get(":path"):match("^[^?]*")
  local text = body and body:getBytes(0, body:length()) or ""
  local is_infer = path:find("/infer$") ~= nil
  local read_well, failed = pcall(function()
    local found = read(text)
    if is_infer then check_infer(found) else check_generate(found, path) end
  end)
  if not read_well then
    handle:respond({[":status"] = "400"}, type(failed) == "table" and failed.said or UNREADABLE)
  elseif not is_infer then
    local field = string.format('{"%s":"%s",', FIELD, handle:headers():get(HEADER))
    body:setBytes(field .. text:sub(text:find("{", 1, true) + 1))
  end
end
