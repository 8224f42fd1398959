// Writes the states that llama.cpp has after each layer, at the last position of a prompt: what
// crates/lockstep-import/tests/quality.rs compares the exact pass with, layer by layer.
//
// Built beside a static build of llama.cpp (LLAMA is its source, BUILD its build folder):
//
//   g++ -O2 -std=c++17 -I$LLAMA/include -I$LLAMA/ggml/include dev/llama_states.cpp -o llama_states \
//     $BUILD/src/libllama.a $BUILD/ggml/src/libggml.a $BUILD/ggml/src/libggml-cpu.a \
//     $BUILD/ggml/src/libggml-base.a -fopenmp -lpthread -ldl
//   llama-quantize --allow-requantize MODEL.gguf MODEL-f32.gguf F32
//   ./llama_states MODEL-f32.gguf ID ID ID ... > states.json
//
// The model should be one in F32, so that products are f32 products; keys and values are kept in
// F32, and attention is not fused.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"

using States = std::map<int, std::vector<float>>;

// Keeps the last row of every tensor that is called "l_out-N".
static bool see(ggml_tensor * tensor, bool ask, void * data) {
    int layer = 0;
    const bool wanted = std::sscanf(tensor->name, "l_out-%d", &layer) == 1;
    if (ask || !wanted) {
        return wanted;
    }
    const size_t columns = (size_t) tensor->ne[0], rows = (size_t) tensor->ne[1];
    auto & state = (*(States *) data)[layer];
    state.resize(columns);
    const size_t row = (rows - 1) * tensor->nb[1];
    ggml_backend_tensor_get(tensor, state.data(), row, columns * sizeof(float));
    return true;
}

int main(int argc, char ** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: %s MODEL.gguf ID...\n", argv[0]);
        return 2;
    }
    std::vector<llama_token> tokens;
    for (int at = 2; at < argc; at++) {
        tokens.push_back(std::atoi(argv[at]));
    }
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (model == nullptr) {
        std::fprintf(stderr, "%s: can't be loaded\n", argv[1]);
        return 1;
    }
    States states;
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 4096;
    params.n_batch = params.n_ubatch = 4096;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.cb_eval = see;
    params.cb_eval_user_data = &states;
    llama_context * context = llama_init_from_model(model, params);
    llama_batch batch = llama_batch_get_one(tokens.data(), (int32_t) tokens.size());
    if (context == nullptr || llama_decode(context, batch) != 0) {
        std::fprintf(stderr, "the prompt can't be fed\n");
        return 1;
    }
    std::printf("{\"ids\": [");
    for (size_t at = 0; at < tokens.size(); at++) {
        std::printf("%s%d", at == 0 ? "" : ", ", tokens[at]);
    }
    std::printf("],\n\"states\": [\n");
    for (const auto & [layer, state] : states) {
        for (size_t at = 0; at < state.size(); at++) {
            std::printf("%s%.6g", at == 0 ? "[" : ", ", (double) state[at]);
        }
        std::printf(layer + 1 == llama_model_n_layer(model) ? "]\n" : "],\n");
    }
    std::printf("]}\n");
    llama_free(context);
    llama_model_free(model);
    return 0;
}
