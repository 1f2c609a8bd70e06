// The template language. Expected texts come from Jinja2 3.1.6 with the settings of Hugging Face transformers.
#include <string>
#include <utility>
#include <vector>

#include "base/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/chat_template.h"
#include "tests/model/tokenizer_test_data.h"

namespace shoal {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

const std::vector<ChatMessage>& Messages() {
  static const std::vector<ChatMessage> messages = {{"system", "Be brief.", {}}, {"user", "Hi", {}}};
  return messages;
}

absl::StatusOr<std::string> Render(const std::string& source) {
  const auto chat = ChatTemplate::Create(source, "t", "<s>", "</s>");
  if (!chat.ok()) return chat.status();
  ChatTemplateOptions options;
  options.variables = ordered_json::parse(R"json({"s": "Hello, Wörld! ", "n": 7, "f": 2.5, "l": [3, 1, 2],
    "d": {"b": 1, "a": [1, {"x": null}]}, "u": "a b  c\n d", "ls": ["b", "A", "c"], "e": [], "t": true,
    "ld": [{"k": 1, "n": "x"}, {"k": 2, "n": "y"}, {"n": "z"}]})json");
  return (*chat)->Render(Messages(), options);
}

TEST(JinjaTest, RendersAsJinja2Does) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{{ s|trim }}|{{ s|upper }}|{{ s|lower }}|{{ s|title }}|{{ s|capitalize }}|{{ s|length }}",
       "Hello, Wörld!|HELLO, WÖRLD! |hello, wörld! |Hello, Wörld! |Hello, wörld! |14"},
      {"{{ l|sort }} {{ l|sort(reverse=true) }} {{ ls|sort }} {{ ls|sort(case_sensitive=true)}} {{ l|max }} {{ l|min "
       "}} {{ l|sum }}",
       "[1, 2, 3] [3, 2, 1] ['A', 'b', 'c'] ['A', 'b', 'c'] 3 1 6"},
      {"{% for k, v in d.items() %}{{ k }}={{ v }};{{ loop.index }}/{{ loop.length }} {% endfor %}",
       "b=1;1/2 a=[1, {'x': None}];2/2 "},
      {"{% for x in l if x > 1 %}{{ x }}{% if not loop.last %}, {% endif %}{% else %}none{% endfor %}", "3, 2"},
      {"{% for x in e %}a{% else %}empty{% endfor %}", "empty"},
      {"{{ u.split() }} {{ u.split(' ') }} {{ u.split(' ', 1) }} {{ u.rsplit(' ',1) }} {{ u.splitlines() }} {{ "
       "u.split(None, 1) }} {{u.rsplit(None,1)}}",
       "['a', 'b', 'c', 'd'] ['a', 'b', '', 'c\\n', 'd'] ['a', 'b  c\\n d'] ['a b  c\\n', 'd'] ['a b  c', ' d'] ['a', "
       "'b  c\\n d'] ['a b  c', 'd']"},
      {"{{ s[0] }}{{ s[-2] }}{{ s[1:4] }}{{ s[::-1] }}{{ s[:-3] }}{{ l[::2] }}{{ l[-1] }}{{ l[5] }}{{l[1:][0]}}",
       "H!ell !dlröW ,olleHHello, Wörl[3, 2]21"},
      {"{{ 7//2 }} {{ -7//2 }} {{ -7%3 }} {{ 7/2 }} {{ 2**10 }} {{ 2**-1 }} {{ 1e3 if false else 1.5 }} {{ 10/5 }} {{ "
       "3*'ab' }} {{ [1]*3 }} {{ 1.0 }} {{ 100000000.0*100000000000 }} {{ -2**2 }}",
       "3 -4 2 3.5 1024 0.5 1.5 2.0 ababab [1, 1, 1] 1.0 1e+19 4"},
      {"{{ 'a' ~ 1 ~ none ~ true ~ 1.5 }} {{ 'a' + 'b' ~ 'c' }} {{ not true or true }} {{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} "
       "{{ 'a' in 'abc' }} {{ 5 not in l }} {{ 'b' in d }}",
       "a1NoneTrue1.5 abc True True False True True True"},
      {"{{ undefinedvar }}|{{ undefinedvar is defined }}|{{ undefinedvar|default('x') }}|{{ none|default('x') }}|{{ "
       "''|default('x', true) }}|{{ d.zzz is none }}|{{ undefinedvar|length }}|{{ undefinedvar ~ 'a' }}",
       "|False|x|None|x|False|0|a"},
      {"{% set ns = namespace(a=1, b='x') %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% set zz = i %}{% endfor "
       "%}{{ ns.a }}{{ ns.b }}{{ zz is defined }}",
       "4xFalse"},
      {"{% macro m(a, b=2, c='z') %}[{{ a }},{{ b }},{{ c }}{% if caller %}{{ caller() }}{% endif %}]{% endmacro %}{{ "
       "m(1) }}{{ m(1, c=3) }}{% call m(5) %}body{% endcall %}",
       "[1,2,z][1,2,3][5,2,zbody]"},
      {"{% macro outer(x) %}{% if x > 0 %}{{ x }}{{ outer(x - 1) }}{% endif %}{% endmacro %}{{ outer(5) }}", "54321"},
      {"{%- set x -%}\n  block {{ n }}\n{%- endset -%}\n<{{ x }}>{% set y | upper | trim %} abc {% endset %}<{{ y }}>",
       "<block 7><ABC>"},
      {"  {% if true %}\n  indented\n    {%- if true %} x {% endif +%}\n  {% endif %}\n  end", "  indented x \n  end"},
      {"a\n  {# comment #}\nb {#- c -#}  c\n{% raw %}{{ not }} {% x %}{% endraw %}\nd", "a\nbc\n{{ not }} {% x %}d"},
      {"{%+ if true %}x{% endif %}\n   {%+ if true %}y{% endif %}\n", "x   y"},
      {"{% filter upper %}abc{{ s }}{% endfilter %}", "ABCHELLO, WÖRLD! "},
      {"{{ l|first }} {{ l|last }} {{ l|reverse|list }} {{ 'abc'|reverse }} {{ [1,1,2]|unique|list }} {{ 'abc'|list }} "
       "{{ l|join }} {{ l|join('-') }} {{ ld|join(',', attribute='n') }}",
       "3 2 [2, 1, 3] cba [1, 2] ['a', 'b', 'c'] 312 3-1-2 x,y,z"},
      {"{{ '3'|int + 1 }} {{ 'x'|int(5) }} {{ '2.7'|float }} {{ 2.7|int }} {{ '2.7'|int }} {{ 2.5|round }} {{ "
       "2.567|round(2) }} {{ -3|abs }} {{ 5|string + 'a' }} {{ true|int }} {{ 3|float }}",
       "4 5 2.7 2 2 2.0 2.57 3 5a 1 3.0"},
      {"{{ '<a href=\"x\">&\\'</a>'|e }} {{ '<'|escape }} {{ '<'|safe }}",
       "&lt;a href=&#34;x&#34;&gt;&amp;&#39;&lt;/a&gt; &lt; <"},
      {"{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent(2, blank=true) }}|{{ "
       "'a\\nb'|indent('> ') }}",
       "a\n    b\n\n    c|  a\n  b|a\n  \n  b|a\n> b"},
      {"{{ 'abcabc'.replace('a','X') }} {{ 'abcabc'.replace('a','X',1) }} {{ 'abc'|replace('b','') }} {{ "
       "'abc'.find('c') }} {{ 'abc'.count('b') }} {{ 'abc'.startswith('ab') }} {{ 'abc'.startswith(('x','a')) }} {{ "
       "'abc'.endswith('c') }} {{ ' x '.lstrip() }} {{ 'xxaxx'.strip('x') }} {{ '-'.join(['a','b']) }} {{ "
       "'a'.replace('', '-') }} {{ 'ab'.removeprefix('a') }}",
       "XbcXbc Xbcabc ac 2 1 True True True x  a a-b -a- b"},
      {"{% set a, b = [1, 2] %}{{ a }}{{ b }}{% set t = 1, 2 %}{{ t|list }}{% for a, b in [[1,2],[3,4]] %}{{ a+b }} {% "
       "endfor %}",
       "12[1, 2]3 7 "},
      {"{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% "
       "endfor %}{{ range(1,10,3)|list }}{{ range(5,0,-2)|list }}",
       "0134[1, 4, 7][5, 3, 1]"},
      {"{% for x in l %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.previtem }}{{ "
       "loop.nextitem }};{% endfor %}",
       "0TrueFalse31;1FalseFalse232;2FalseTrue11;"},
      {"{{ 'x' if false }}|{{ ('x' if n > 5 else 'y') ~ 'z' }}|{{ 'a' if n == 1 else 'b' if n == 7 else 'c' }}",
       "|xz|b"},
      {"{{ messages|length }}{{ messages[0].role }}{{ messages[-1]['content'] }}{{ messages[1:]|length }}{{ "
       "messages|map(attribute='role')|join('|') }}{{ messages[0].get('x', 'dflt') }}{{ messages[0].get('x') }}",
       "2systemHi1system|userdfltNone"},
      {"{{ \"\\u00e9\\x41\\t\\q\\\\\" }} {{ 'a' 'b' }} {{ 1_000 }}", "éA\t\\q\\ ab 1000"},
      {"{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}", "3False"},
      {"{% if l and not e %}ok{% elif t %}no{% else %}no{% endif %}", "ok"},
      {"{{ [1,2] == [1,2] }}{{ {'a':1} == {'a':1.0} }}{{ 1 == true }}{{ '1' == 1 }}{{ none == false }}{{ [1] + [2] "
       "}}{{ [1,2] < [1,3] }}",
       "TrueTrueTrueFalseFalse[1, 2]True"},
      {"{{- ' a ' -}}   \nx\n{{ d.b }}{{ d['a'][1].x }}{{ d.a[0] }}", " a x\n1None1"},
      {"{{ not s is string }} {{ -n }} {{ +n }} {{ - n|abs }} {{ n|string|length }} {{ 2 * n|float }} {{ (n, 2)|max }}",
       "False -7 7 7 1 14.0 7"},
      {"{% set x = namespace(v=[]) %}{% for i in l %}{% set x.v = x.v + [i] %}{% endfor %}{{ x.v }}", "[3, 1, 2]"},
      {"{{ 1.5e3 }}{{ 0.1 + 0.2 }}{{ 1e22 }}{{ 3.0e-7 }}", "1500.00.300000000000000041e+223e-07"},
      {"{% for m in messages %}{% if loop.first %}F{% endif %}{{ m.role[0]|upper }}{{ '\\n' if not loop.last }}{% "
       "endfor %}",
       "FS\nU"},
      {"{{ s.strip().split(', ')[1] | lower }}{{ (s | trim)[0] }}", "wörld!H"},
      {"{{ d | tojson(indent=4, sort_keys=true) }}{{ [] | tojson(indent=2) }}{{ {} | tojson }}{{ l | "
       "tojson(separators=(',', ':')) }}{{ 'é\\u2028' | tojson }}{{ [1.0, 1e30, none, true] | tojson }}",
       "{\n    \"a\": [\n        1,\n        {\n            \"x\": null\n        }\n    ],\n    \"b\": "
       "1\n}[]{}[3,1,2]\"é\u2028\"[1.0, 1e+30, null, true]"},
      {"{%- for x in l -%}\n  {{ x }}\n{%- endfor %}\n\ntail\n\n", "312\ntail\n"},
      {"{{ d|tojson }} {{ d|tojson(indent=2) }} {{ d.keys()|list }}",
       "{\"b\": 1, \"a\": [1, {\"x\": null}]} {\n  \"b\": 1,\n  \"a\": [\n    1,\n    {\n      \"x\": null\n    }\n  "
       "]\n} ['b', 'a']"},
      {"{{ ld|selectattr('k', 'defined')|map(attribute='n')|join(',') }} {{ ld|rejectattr('k')|list }} {{ "
       "ld|map(attribute='k', default=0)|list }} {{ l|select('odd')|list }} {{ ls|map('upper')|list }}",
       "x,y [{'n': 'z'}] [1, 2, 0] [3, 1] ['B', 'A', 'C']"}};
  for (const auto& [source, expected] : cases) {
    const auto text = Render(source);
    ASSERT_TRUE(text.ok()) << source << ": " << text.status();
    EXPECT_EQ(*text, expected) << source;
  }
}

TEST(JinjaTest, ErrorsNameTheLine) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"a\n{{ x", "t: template line 2: the tag '{{' is not closed by '}}'"},
      {"{% if true %}a", "'{% endif %}' is missing"},
      {"\n\n{% for x in l %}", "template line 3: a block is not closed: '{% endfor %}' is missing"},
      {"{% endif %}", "tag 'endif' is not supported or does not belong here"},
      {"{% include 'x' %}", "tag 'include' is not supported"},
      {"{% import 'os' as os %}", "tag 'import' is not supported"},
      {"{% extends 'x' %}", "tag 'extends' is not supported"},
      {"{% break %}", "'break' is outside of a loop"},
      {"{# x", "a comment '{#' is not closed"},
      {"{% raw %}x", "is not closed by '{% endraw %}'"},
      {"{{ 'x }}", "a string is not closed"},
      {"{{ a $ b }}", "unexpected character '$'"},
      {"{{ }}", "expected an expression, not '}}'"},
      {"{{ a b }}", "expected '}}', not 'b'"},
      {"{{ (1 }}", "expected ')'"},
      {"{{ x | frobnicate }}", "filter 'frobnicate' is not supported"},
      {"{{ x is frobnicated }}", "test 'frobnicated' is not supported"},
      {"{{ f(*l) }}", "'*' arguments are not supported"},
      {"{% for x in l recursive %}{% endfor %}", "recursive loops are not supported"},
      {"{{ '\\ud800' }}", "no Unicode character"},
      {"{{ 99999999999999999999 }}", "is too long"},
      {"\n{{ missing.field }}", "template line 2: 'missing' is undefined; it has no attribute 'field'"},
      {"{{ missing + 'a' }}", "'missing' is undefined"},
      {"{{ missing() }}", "'missing' is undefined; it cannot be called"},
      {"{{ n() }}", "a integer cannot be called"},
      {"{{ 'a' + 1 }}", "'+' is not defined for string and integer"},
      {"{{ 1 // 0 }}", "division by zero"},
      {"{{ 'a' < 1 }}", "cannot order string and integer"},
      {"{% for x in 5 %}{% endfor %}", "cannot loop over integer"},
      {"{% set d.x = 1 %}", "only a namespace can be changed"},
      {"{% for a, b in [[1]] %}{% endfor %}", "cannot unpack 1 values into 2 names"},
      {"{{ l.append(4) }}", "is undefined; it cannot be called"},
      {"{{ ''.__class__ }}{{ ''.__class__.__mro__ }}", "'__class__' is undefined"},
      {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "macro 'm' takes 1 arguments, not 2"},
      {"{% macro m(a) %}{% endmacro %}{{ m(z=2) }}", "macro 'm' has no parameter 'z'"},
      {"{{ raise_exception('No system role') }}", "No system role"},
      {"{{ 9223372036854775807 + 1 }}", "is too long"},
      {"{{ 900000000000000000 * 900000000000000000 }}", "exceeds 64 bits"}};
  for (const auto& [source, message] : cases) {
    const auto text = Render(source);
    ASSERT_FALSE(text.ok()) << source << " gave " << *text;
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << source;
    EXPECT_THAT(std::string(text.status().message()), HasSubstr(message)) << source;
    EXPECT_THAT(std::string(text.status().message()), HasSubstr("template line ")) << source;
  }
}

TEST(JinjaTest, BombsEndWithinTheLimits) {
  const std::vector<std::string> bombs = {
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l == ns.l "
      "+ [] }}{{ ns.l|tojson }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(1000) %}{% set ns.l = [ns.l] %}{% endfor %}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
      "{{ 'x' * 1000000000000 }}",
      "{{ [1] * 1000000000000 }}",
      "{% for i in range(100000) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}",
      "{{ ('x' * 60000)|replace('x', 'y' * 60000) }}",
      "{{ (['x' * 60000] * 60000)|join('y' * 60000) }}",
      "{{ ('\n' * 60000)|indent(1000, true, true) }}"};
  for (const std::string& bomb : bombs) {
    const auto text = Render(bomb);
    ASSERT_FALSE(text.ok()) << bomb;
    EXPECT_EQ(text.status().code(), absl::StatusCode::kResourceExhausted) << bomb << text.status();
  }
}

TEST(JinjaTest, DeepNestingIsRefused) {
  const std::vector<std::string> sources = {"{{ " + std::string(100'000, '(') + "1" + std::string(100'000, ')') + " }}",
                                            "{{ " + std::string(100'000, '[') + " }}",
                                            "{{ " + std::string(100'000, '-') + "1 }}",
                                            [] {
                                              std::string text = "{{ 1";
                                              for (int i = 0; i < 100'000; ++i) text += " + 1";
                                              return text + " }}";
                                            }(),
                                            [] {
                                              std::string text;
                                              for (int i = 0; i < 100'000; ++i) text += "{% if 1 %}";
                                              return text;
                                            }(),
                                            [] {
                                              std::string text = "{{ ";
                                              for (int i = 0; i < 100'000; ++i) text += "not ";
                                              return text + "1 }}";
                                            }()};
  for (const std::string& source : sources) {
    const auto text = Render(source);
    ASSERT_FALSE(text.ok());
    EXPECT_THAT(std::string(text.status().message()), testing::ContainsRegex("deeper than"));
  }
}

TEST(ChatTemplateTest, MessagesToolsAndVariablesReachTheTemplate) {
  const auto chat = ChatTemplate::Create(
      "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls|tojson }}"
      "{% endif %};{% endfor %}{% if tools %}{{ tools|length }}{% endif %}{{ enable_thinking }}{{ "
      "add_generation_prompt }}",
      "t", "<s>", "</s>");
  ASSERT_TRUE(chat.ok());
  ChatTemplateOptions options;
  options.add_generation_prompt = false;
  options.tools = ordered_json::parse(R"([{"a": 1}])");
  options.variables = ordered_json::parse(R"({"enable_thinking": false, "messages": "not these"})");
  const std::vector<ChatMessage> messages = {
      {"user", "Hi", {}},
      {"assistant", "", ordered_json::parse(R"({"content": null, "tool_calls": [{"z": 1, "a": 2}]})")}};
  EXPECT_EQ(*(*chat)->Render(messages, options), "<s>user:Hi;assistant:None[{\"z\": 1, \"a\": 2}];1FalseFalse");
  EXPECT_THAT(std::string((*chat)->Render({{"user", "a\xFF", {}}}).status().message()),
              HasSubstr("messages[0]: is not valid UTF-8 at byte 1"));
  ordered_json deep = 1;
  for (int i = 0; i < 200; ++i) deep = ordered_json::array({deep});
  EXPECT_THAT(std::string((*chat)->Render({{"user", "a", {{"x", deep}}}}).status().message()),
              HasSubstr("nested deeper"));
}

TEST(ChatTemplateTest, LargeConversationsFit) {
  const auto chat = ChatTemplate::Create(
      "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content | trim + '<|end|>\n' }}{% endfor %}", "t", "", "");
  std::vector<ChatMessage> messages;
  for (int i = 0; i < 100; ++i) messages.push_back({"user", std::string(100'000, 'x'), {}});
  const auto text = (*chat)->Render(messages);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->size(), 100u * (100'000 + 9 + 8));
}

TEST(ChatTemplateTest, StrftimeNowShowsTheGivenTime) {
  const auto chat = ChatTemplate::Create("{{ strftime_now('%Y') }}", "t", "", "");
  ChatTemplateOptions options;
  options.now = absl::FromUnixSeconds(1'720'000'000);  // July 2024, whatever the time zone.
  EXPECT_EQ(*(*chat)->Render({}, options), "2024");
}

TEST(ChatTemplateTest, LoadChoosesTheTemplate) {
  const TestFolder folder;
  folder.Write("tokenizer_config.json",
               R"({"bos_token": {"content": "<s>"}, "eos_token": null, "additional_special_tokens": ["<x>"],
    "chat_template": [{"name": "tool_use", "template": "tools"},
                      {"name": "default", "template": "{{ bos_token }}{{ additional_special_tokens[0] }}{{ eos_token is defined }}"}]})");
  auto chat = ChatTemplate::Load(folder.path());
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(*(*chat)->Render(Messages()), "<s><x>False");
  ChatTemplateOptions options;
  options.tools = ordered_json::parse(R"([{"a": 1}])");
  EXPECT_EQ(*(*chat)->Render(Messages(), options), "tools");
  folder.Write("chat_template.jinja", "{{ bos_token }}file\n");  // The file wins.
  EXPECT_EQ(*(*ChatTemplate::Load(folder.path()))->Render(Messages()), "<s>file");
  folder.Write("chat_template.jinja", "\n{% bad %}");
  EXPECT_THAT(std::string(ChatTemplate::Load(folder.path()).status().message()),
              HasSubstr(folder.path() + "/chat_template.jinja: template line 2: tag 'bad' is not supported"));
  const TestFolder none;
  none.Write("tokenizer_config.json", "{}");
  EXPECT_THAT(std::string(ChatTemplate::Load(none.path()).status().message()),
              HasSubstr("the model has no chat template"));
  none.Write("tokenizer_config.json", R"({"chat_template": 3})");
  EXPECT_THAT(std::string(ChatTemplate::Load(none.path()).status().message()),
              HasSubstr("field 'chat_template' must be a string or an array"));
}

}  // namespace
}  // namespace shoal
