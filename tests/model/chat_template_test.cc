#include "model/chat_template.h"

#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/tokenizer_test_data.h"

namespace shoal {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

std::vector<ChatMessage> ToMessages(const Json& json) {
  std::vector<ChatMessage> messages;
  for (const Json& message : json) messages.push_back({message["role"], message["content"], {}});
  return messages;
}

class SharedChatTemplateTest : public testing::Test {
 protected:
  void SetUp() override {
    data_ = SharedTestData();
    if (data_.empty()) GTEST_SKIP() << "no ../shared/data and no SHOAL_TEST_DATA: real chat templates not tested";
  }
  std::string data_;
};

TEST_F(SharedChatTemplateTest, EveryCaseOfLlamaCppRendersAsExpected) {
  const auto file = ReadJsonFile(data_ + "/chat/llamacpp_chat_template_cases_gg.json", 1 << 20);
  ASSERT_TRUE(file.ok()) << file.status();
  const std::vector<ChatMessage> messages = ToMessages((*file)["conversation"]);
  // For these the file has what llama.cpp's own matcher makes, not what the template says. What is here comes from
  // Jinja2 3.1.6 with the settings of transformers: the text, or the template's own refusal.
  struct JinjaSays {
    std::string text;
    std::string error;
  };
  const std::map<std::string, JinjaSays> exceptions = {
      {"mistralai/Mistral-7B-Instruct-v0.2 (NOTE: Old pre-v1 without a system prompt)",
       {"", "Conversation roles must alternate"}},
      {"mlabonne/AlphaMonarch-7B",
       {"<s>system\nYou are a helpful assistant</s>\n<s>user\nHello</s>\n<s>assistant\nHi there</s>\n<s>user\nWho are "
        "you</s>\n<s>assistant\n   I am an assistant   </s>\n<s>user\nAnother question</s>\n<s>assistant\n",
        ""}},
      {"google/gemma-7b-it", {"", "System role not supported"}},
      {"OrionStarAI/Orion-14B-Chat",
       {"Human: Hello\n\nAssistant: </s>Hi there</s>Human: Who are you\n\nAssistant: </s>   I am an assistant   "
        "</s>Human: Another question\n\nAssistant: </s>",
        ""}},
      {"Phi-3-mini",
       {"<|user|>\nHello<|end|>\n<|assistant|>\nHi there<|end|>\n<|user|>\nWho are you<|end|>\n<|assistant|>\n   I am "
        "an assistant   <|end|>\n<|user|>\nAnother question<|end|>\n<|assistant|>\n",
        ""}},
      {"Phi-3-medium",
       {"<|user|>\nHello<|end|>\n<|assistant|>\nHi there<|end|>\n<|user|>\nWho are you<|end|>\n<|assistant|>\n   I am "
        "an assistant   <|end|>\n<|user|>\nAnother question<|end|>\n<|assistant|>\n",
        ""}},
      {"ChatGLM3",
       {"[gMASK]sop<|system|>\n You are a helpful assistant<|user|>\n Hello<|assistant|>\n Hi there<|user|>\n Who are "
        "you<|assistant|>\n    I am an assistant   <|user|>\n Another question<|assistant|>",
        ""}},
      {"ai-sage/GigaChat-20B-A3B-instruct", {"", "'additional_special_tokens' is undefined"}}};
  size_t passed = 0;
  for (const Json& test : (*file)["cases"]) {
    const std::string name = test["name"];
    const std::string jinja = test["expected_output_jinja"];
    std::string expected = jinja.empty() ? test["expected_output"].get<std::string>() : jinja;
    const auto parsed = ChatTemplate::Create(test["template_str"].get<std::string>(), name, test.value("bos_token", ""),
                                             test.value("eos_token", ""));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const auto text = (*parsed)->Render(messages);
    if (const auto exception = exceptions.find(name); exception != exceptions.end()) {
      if (!exception->second.error.empty()) {
        EXPECT_THAT(std::string(text.status().message()), HasSubstr(exception->second.error));
        ++passed;
        continue;
      }
      expected = exception->second.text;
    }
    ASSERT_TRUE(text.ok()) << name << ": " << text.status();
    EXPECT_EQ(*text, expected) << name;
    passed += *text == expected ? 1 : 0;
  }
  EXPECT_EQ(passed, 30u);
}

TEST_F(SharedChatTemplateTest, DeepSeekR1FolderRendersTheGoldenPrompt) {
  const auto chat = ChatTemplate::Load(data_ + "/tokenizers/deepseek-r1-distill-qwen");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(*(*chat)->Render({{"user", "Who are you?", {}}}),
            "<｜begin▁of▁sentence｜><｜User｜>Who are you?<｜Assistant｜><think>\n");
  // The thoughts of earlier turns are cut out.
  EXPECT_EQ(*(*chat)->Render({{"system", "Be brief.", {}},
                              {"user", "Hi", {}},
                              {"assistant", "<think>\nhm\n</think>Hello", {}},
                              {"user", "Bye", {}}}),
            "<｜begin▁of▁sentence｜>Be "
            "brief.<｜User｜>Hi<｜Assistant｜>Hello<｜end▁of▁sentence｜><｜User｜>Bye<｜Assistant｜><think>\n");
}

TEST(DemoChatTemplateTest, AgreesWithTransformers) {
  const std::string source = SHOAL_SOURCE_DIR;
  const auto golden = ReadJsonFile(source + "/tests/golden/demo_tokenizer.json", 16 << 20);
  ASSERT_TRUE(golden.ok()) << golden.status();
  const auto chat = ChatTemplate::Load(source + "/deploy/demo_model");
  ASSERT_TRUE(chat.ok()) << chat.status();
  for (const Json& test : (*golden)["chats"]) {
    ChatTemplateOptions options;
    options.add_generation_prompt = test["add_generation_prompt"];
    const auto text = (*chat)->Render(ToMessages(test["messages"]), options);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, test["rendered"].get<std::string>());
  }
}

}  // namespace
}  // namespace shoal
