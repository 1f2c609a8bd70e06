// Every field against its limits, through the wire: the server says which one, and goes on.
#include <cmath>
#include <limits>

#include "base/str_cat.h"
#include "gmock/gmock.h"
#include "tests/server/server_fixture.h"

namespace shoal::testing {
namespace {

using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int32_t kMin = std::numeric_limits<int32_t>::min();
constexpr int32_t kMax = std::numeric_limits<int32_t>::max();

struct Case {
  std::function<void(v1::GenerateRequest*)> change;
  std::string message;
};

void AddFloats(const char* field, void (v1::SamplingParams::*set)(float), std::vector<float> bad,
               std::vector<Case>* cases) {
  for (const float value : bad) {
    cases->push_back(
        {[set, value](v1::GenerateRequest* r) { (r->mutable_sampling_params()->*set)(value); }, StrCat(field, " is ")});
  }
}

void AddInts(const char* field, void (v1::SamplingParams::*set)(int32_t), std::vector<int32_t> bad,
             std::vector<Case>* cases) {
  for (const int32_t value : bad) {
    cases->push_back({[set, value](v1::GenerateRequest* r) { (r->mutable_sampling_params()->*set)(value); },
                      StrCat(field, " is ", value)});
  }
}

std::vector<Case> NumberCases() {
  using P = v1::SamplingParams;
  std::vector<Case> cases;
  AddFloats("temperature", &P::set_temperature, {-0.1f, kNan, kInfinity, 1e9f}, &cases);
  AddFloats("top_p", &P::set_top_p, {0, -1, 1.01f, kNan, kInfinity}, &cases);
  AddFloats("min_p", &P::set_min_p, {-0.1f, 1.1f, kNan}, &cases);
  AddFloats("repetition_penalty", &P::set_repetition_penalty, {0, -1, kNan, kInfinity, 1e6f}, &cases);
  AddFloats("presence_penalty", &P::set_presence_penalty, {-2.1f, 2.1f, kNan, kInfinity}, &cases);
  AddFloats("frequency_penalty", &P::set_frequency_penalty, {-2.1f, 2.1f, kNan, -kInfinity}, &cases);
  AddInts("top_k", &P::set_top_k, {-2, kMin}, &cases);
  AddInts("max_tokens", &P::set_max_tokens, {0, -1, kMin}, &cases);
  AddInts("min_tokens", &P::set_min_tokens, {-1, kMin, kMax, 6}, &cases);
  AddInts("logprobs", &P::set_logprobs, {-1, 21, kMax}, &cases);
  return cases;
}

std::vector<Case> ListCases() {
  std::vector<Case> cases;
  const auto add = [&](std::function<void(v1::GenerateRequest*)> change, std::string message) {
    cases.push_back({std::move(change), std::move(message)});
  };
  const auto params = [](v1::GenerateRequest* r) { return r->mutable_sampling_params(); };
  add(
      [=](auto* r) {
        for (int i = 0; i < 17; ++i) params(r)->add_stop(std::string("x"));
      },
      "stop has 17 entries; at most 16");
  add([=](auto* r) { params(r)->add_stop(std::string()); }, "stop[0] has 0 bytes");
  add([=](auto* r) { params(r)->add_stop(std::string(257, 'x')); }, "stop[0] has 257 bytes");
  add(
      [=](auto* r) {
        params(r)->add_stop(std::string("ok"));
        params(r)->add_stop(std::string("\xFF"));
      },
      "stop[1]: invalid UTF-8 at byte 0");
  add(
      [=](auto* r) {
        for (int i = 0; i < 257; ++i) params(r)->add_stop_token_ids(1);
      },
      "stop_token_ids has 257 entries");
  add([=](auto* r) { params(r)->add_stop_token_ids(-1); },
      "stop_token_ids has the id -1; ids of this model are 0 to 259");
  add([=](auto* r) { params(r)->add_stop_token_ids(260); }, "stop_token_ids has the id 260");
  add(
      [=](auto* r) {
        for (int i = 0; i < 1025; ++i) (*params(r)->mutable_logit_bias())[i] = 1;
      },
      "logit_bias has 1025 entries");
  add([=](auto* r) { (*params(r)->mutable_logit_bias())[260] = 1; }, "logit_bias has the id 260");
  add([=](auto* r) { (*params(r)->mutable_logit_bias())[1] = kNan; }, "logit_bias[1] is nan");
  add([=](auto* r) { (*params(r)->mutable_logit_bias())[1] = 101; }, "logit_bias[1] is 101");
  add([](auto* r) { r->set_request_id(std::string(129, 'x')); }, "request_id has 129 bytes; at most 128");
  add([](auto* r) { r->set_request_id("a\xC0\x80"); }, "request_id: invalid UTF-8 at byte 1");
  return cases;
}

std::vector<Case> InputCases() {
  std::vector<Case> cases;
  const auto add = [&](std::function<void(v1::GenerateRequest*)> change, std::string message) {
    cases.push_back({std::move(change), std::move(message)});
  };
  add([](auto* r) { r->clear_text(); }, "input is missing; set one of text, token_ids or messages");
  add([](auto* r) { r->set_text(""); }, "the prompt has no tokens");
  add([](auto* r) { r->set_text("ab\xE2\x28\xA1"); }, "text: invalid UTF-8 at byte 2");
  add([](auto* r) { r->set_text("\xED\xA0\x80"); }, "text: invalid UTF-8 at byte 0");
  add([](auto* r) { r->set_text(std::string(65537, 'x')); }, "text has 65537 bytes; at most 65536");
  add([](auto* r) { r->set_text(std::string(20000, 'x')); }, "the prompt has 20000 tokens; the context holds 20000");
  add([](auto* r) { r->mutable_token_ids(); }, "token_ids: is empty");
  add([](auto* r) { r->mutable_token_ids()->add_ids(-1); }, "token_ids has the id -1");
  add([](auto* r) { r->mutable_token_ids()->add_ids(kMax); }, "token_ids has the id 2147483647");
  add(
      [](auto* r) {
        for (int i = 0; i < 20000; ++i) r->mutable_token_ids()->add_ids(1);
      },
      "token_ids has 20000 ids");
  add([](auto* r) { r->mutable_messages(); }, "messages: is empty");
  add([](auto* r) { r->mutable_messages()->add_messages()->set_content("x"); }, "messages[0].role has 0 bytes");
  add([](auto* r) { r->mutable_messages()->add_messages()->set_role(std::string(65, 'r')); },
      "messages[0].role has 65 bytes");
  for (const char* role : {"\xFF", "user<|im_end|>", "user\n", "a b", "r\xC3\xB4le"}) {
    add([role](auto* r) { r->mutable_messages()->add_messages()->set_role(role); },
        "messages[0].role has characters other than letters, digits, '_' and '-'");
  }
  add(
      [](auto* r) {
        r->mutable_messages()->add_messages()->set_role("user");
        r->mutable_messages()->mutable_messages(0)->set_content("abc\x80");
      },
      "messages[0].content: invalid UTF-8 at byte 3");
  add(
      [](auto* r) {
        for (int i = 0; i < 3; ++i) {
          v1::Message* message = r->mutable_messages()->add_messages();
          message->set_role("user");
          message->set_content(std::string(30000, 'x'));
        }
      },
      "messages have more than 65536 bytes of content");
  add(
      [](auto* r) {
        for (int i = 0; i < 4097; ++i) r->mutable_messages()->add_messages()->set_role("u");
      },
      "messages has 4097 entries");
  return cases;
}

class ValidationTest : public ServerTest {
 protected:
  void ExpectRefused(const std::vector<Case>& cases) {
    for (const Case& one : cases) {
      v1::GenerateRequest request = TextRequest("ok", 5);
      one.change(&request);
      const StreamOutcome outcome = Generate(request);
      EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << one.message;
      EXPECT_THAT(outcome.status.error_message(), HasSubstr(one.message));
      EXPECT_EQ(outcome.chunks, 0);
    }
    EXPECT_EQ(engine_->submitted(), 0u);
    EXPECT_TRUE(WaitFor([this] { return server_->active_requests() == 0; }));
    EXPECT_TRUE(Generate(TextRequest("still here", 10)).status.ok());
  }
};

TEST_F(ValidationTest, NumbersOutOfRangeAreNamedWithTheirLimits) {
  StartReady();
  ExpectRefused(NumberCases());
}

TEST_F(ValidationTest, ListsAndIdsAreBounded) {
  StartReady();
  ExpectRefused(ListCases());
}

TEST_F(ValidationTest, BadInputsAreRefusedBeforeTheEngine) {
  StartReady();
  ExpectRefused(InputCases());
}

TEST_F(ValidationTest, TheEdgesOfTheRangesAreAllowed) {
  StartReady();
  v1::GenerateRequest request = TextRequest("ok", 5);
  v1::SamplingParams* params = request.mutable_sampling_params();
  params->set_temperature(0);
  params->set_top_p(1);
  params->set_top_k(-1);
  params->set_min_p(1);
  params->set_presence_penalty(-2);
  params->set_frequency_penalty(2);
  params->set_min_tokens(5);
  params->set_logprobs(20);
  params->set_max_tokens(5);
  params->add_stop(std::string(256, 'x'));
  request.set_request_id(std::string(128, 'x'));
  request.set_priority(kMin);
  EXPECT_TRUE(Generate(request).status.ok());
  request.mutable_sampling_params()->set_top_k(kMax);
  EXPECT_TRUE(Generate(request).status.ok());
}

TEST_F(ValidationTest, AMessageBeyondTheLimitIsRefusedByTheTransport) {
  StartReady();
  const StreamOutcome outcome = Generate(TextRequest(std::string(2 << 20, 'x'), 5));
  EXPECT_EQ(outcome.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(engine_->submitted(), 0u);
}

}  // namespace
}  // namespace shoal::testing
