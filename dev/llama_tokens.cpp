// The ids that llama.cpp gives texts, for dev/compare_tokenizers.py.
//
//   g++ -O1 -I llama.cpp/include -I llama.cpp/ggml/include dev/llama_tokens.cpp -L LIBRARIES -lllama -o llama_tokens
//   ./llama_tokens MODEL.gguf
//
// Standard input holds texts: a line "MODE LENGTH", MODE being plain or parse, and then the bytes. Each gets a
// line of ids. The first line that is written has the ids that end an answer.
#include "llama.h"

#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

int main(int argc, char ** argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: llama_tokens MODEL.gguf\n");
        return 2;
    }
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    llama_model * model = llama_model_load_from_file(argv[1], params);
    if (!model) {
        printf("refused\n");
        return 0;
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    for (int id = 0; id < llama_vocab_n_tokens(vocab); id++) {
        if (llama_vocab_is_eog(vocab, id)) printf("%d ", id);
    }
    printf("\n");
    std::string mode;
    size_t length;
    while (std::cin >> mode >> length) {
        std::cin.get();
        std::string text(length, '\0');
        std::cin.read(text.data(), length);
        std::vector<llama_token> ids(length + 16);
        int n = llama_tokenize(vocab, text.data(), length, ids.data(), ids.size(), false, mode == "parse");
        for (int i = 0; i < n; i++) printf("%d ", ids[i]);
        printf("\n");
    }
    return 0;
}
