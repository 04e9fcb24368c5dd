# Completion of both programs for bash. Made by `make docs`: do not edit.

_kpod_loader() {
	local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
	case $previous in
		--profile) mapfile -t COMPREPLY < <(compgen -W "minimal standard comprehensive" -- "$word"); return ;;
		--segment|--proc) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
		dump|check) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
		events) mapfile -t COMPREPLY < <(compgen -W "exec oom drop" -- "$word"); return ;;
	esac
	if [ "${COMP_WORDS[1]}" = events ]; then
		mapfile -t COMPREPLY < <(compgen -W "--container --json" -- "$word")
		return
	fi
	if [ "$COMP_CWORD" = 1 ] && [[ $word != -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "run dump check events schema doctor top options" -- "$word")
		return
	fi
	mapfile -t COMPREPLY < <(compgen -W "--segment --interval --min-interval --tombstone --max-containers --max-sockets --cpu-culprits --tcp-peers --ring-size --ring-max --profile --collectors --syscalls --proc --max-overhead --cgroup-root --others --others-share --instances --pods-only --allow-degraded-privileges --print --json --once --sort --filter --log-format --verbose --help --version" -- "$word")
}

_kpod_aggregator() {
	local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
	case $previous in
		--created) mapfile -t COMPREPLY < <(compgen -W "off protobuf all" -- "$word"); return ;;
		--compat) mapfile -t COMPREPLY < <(compgen -W "none cadvisor" -- "$word"); return ;;
		--ended) mapfile -t COMPREPLY < <(compgen -W "until-seen always" -- "$word"); return ;;
		--log-level) mapfile -t COMPREPLY < <(compgen -W "debug info warning error" -- "$word"); return ;;
		--log-format) mapfile -t COMPREPLY < <(compgen -W "text json" -- "$word"); return ;;
		--pods) mapfile -t COMPREPLY < <(compgen -W "auto api kubelet none" -- "$word"); return ;;
		--identity-labels) mapfile -t COMPREPLY < <(compgen -W "where-needed always" -- "$word"); return ;;
		--segment|--web.config.file|--kubeconfig|--state) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
	esac
	if [ "$COMP_CWORD" = 1 ] && [[ $word != -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "bundle" -- "$word")
		return
	fi
	mapfile -t COMPREPLY < <(compgen -W "--segment --listen --node --histogram --created --compat --ended --max-series-per-family --max-series --max-page --max-ended-per-pod --max-scrapes --web.config.file --otlp-endpoint --otlp-interval --log-level --log-format --pods --kubeconfig --kubelet --kubelet-insecure --pod-labels --scrub --namespaces --exclude-namespaces --pod-selector --name-grace --identity-labels --state --help --version" -- "$word")
}

complete -o filenames -F _kpod_loader kpod-loader
complete -o filenames -F _kpod_aggregator kpod-aggregator
