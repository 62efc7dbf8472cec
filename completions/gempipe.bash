# shellcheck shell=bash
# Completion of gempipe's verbs and options for bash.

_gempipe_options() { # VERB
	local engine='--model --stages --threads --kv-type --max-rows --cpu-mask --device-memory
		--npu --npu-layers --check-numerics --trace --json --quiet
		--verbose --help --version'
	local guess='--lookup --draft --draft-stages'
	local sampling='--temp --top-k --top-p --min-p --repeat-penalty --seed'

	case $1 in
	run) echo "$engine $sampling $guess --ctx --prompt --file --prompts --parallel --tokens --no-bos
		--parse-special" ;;
	chat) echo "$engine $sampling $guess --ctx --system --tokens --no-history" ;;
	serve) echo "$engine $guess --ctx --host --port --api-key-file --name --max-sequences --max-queue
		--max-connections --client-timeout --max-step-ms --kv-tokens --prefixes" ;;
	logits) echo "$engine --ctx --ids --out" ;;
	perplexity) echo "$engine --ctx --file --ids --chunks --skip --parallel" ;;
	evaluate) echo "$engine --ctx --text --file --ids --chunks --skip --parallel --reference
		--save-reference --min-retention" ;;
	bench) echo "$engine $guess --ctx --prompt --tokens --batch --context --repeat --device --serve --url
		--clients --rate --requests --lengths --divide --shared --api-key-file --max-sequences --max-queue
		--max-step-ms --kv-tokens --prefixes --guess --accept --file --continuation" ;;
	tokenize) echo '--model --no-bos --parse-special --jsonl --help --version' ;;
	detokenize) echo '--model --skip-special --jsonl --help --version' ;;
	devices) echo '--json --verbose --help --version' ;;
	check) echo 'npu --verify --npu --help --version' ;;
	inspect) echo '--model --tensors --json --help --version' ;;
	convert) echo '--output --type --quiet --help --version' ;;
	calibrate) echo '--model --file --ids --output --ctx --chunks --probe-chunks --threads --json
		--quiet --help --version' ;;
	quantize) echo '--output --type --embedding --tensor-type --bits --target-size --calibration
		--text --ids --chunks --ctx --nearest --threads --restart --plan --json --quiet --help --version' ;;
	synth) echo '--size --type --format --output --seed --quiet --help --version' ;;
	worker) echo 'cpu vulkan npu --npu --gdb --connect --stage --device --describe --help --version' ;;
	demo) echo '--yes --help' ;;
	esac
}

# What may follow an option; fails where that is a file or free text.
_gempipe_values() { # VERB OPTION
	case $1,$2 in
	*,--kv-type) echo 'f32 f16 q8_0' ;;
	*,--cpu-mask) echo 'scalar avx2 avx512 avx512vnni avx512bf16' ;;
	*,--stages | *,--draft-stages) echo 'auto cpu: vulkan: vulkan[1]: npu: external:' ;;
	*,--device-memory) echo 'vulkan= vulkan[1]= npu=' ;;
	*,--npu) echo 'sim' ;;
	bench,--device) echo 'npu' ;;
	convert,--type | quantize,--type | quantize,--embedding)
		echo 'f32 f16 bf16 q8_0 q4_0 q3_k q4_k q5_k q6_k iq4_nl iq4_xs' ;;
	synth,--type) echo 'bf16 q8_0 q4_0 q3_k q4_k q5_k q6_k iq4_nl iq4_xs' ;;
	synth,--format) echo 'gguf safetensors' ;;
	synth,--size) echo '270m 1b 4b 12b 27b' ;;
	*) return 1 ;;
	esac
}

_gempipe() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	local verb=${COMP_WORDS[1]-} words
	local verbs='run chat serve tokenize detokenize logits perplexity evaluate inspect convert calibrate
		quantize synth bench devices check worker demo version help --help --version'

	COMPREPLY=()
	if [ "$COMP_CWORD" = 1 ]; then
		words=$verbs
	elif ! words=$(_gempipe_values "$verb" "$before"); then
		case $verb,$word in
		*,-* | worker,* | check,* | demo,*) words=$(_gempipe_options "$verb") ;;
		*) return ;; # files, by the -o default below
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -o default -F _gempipe gempipe
