# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_hotvisor_global_optspecs
    string join \n h/help V/version
end

function __fish_hotvisor_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_hotvisor_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_hotvisor_using_subcommand
    set -l cmd (__fish_hotvisor_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c hotvisor -n "__fish_hotvisor_needs_command" -s h -l help -d 'Print help'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -s V -l version -d 'Print version'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "run" -d 'Boot a guest and run it to its end, or wait for the API to create one'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "vcpus" -d 'Show the vCPUs of a running VM'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "unplug" -d 'Take vCPUs away from the guest'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "plug" -d 'Give vCPUs to the guest'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "resize" -d 'Plug or unplug vCPUs until there are so many'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "operations" -d 'List the operations: those that run, and the last ones that ended'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "wait" -d 'Wait for operations to end, and say how they did'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "cancel" -d 'Take an operation back, as long as the guest has not read the request'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "watch" -d 'Show the vCPUs, and show them anew whenever something changes'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "events" -d 'Print what happens to the vCPUs and the machine, as it happens'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "timeline" -d 'Draw where the time of a vCPU\'s last unplug went, phase by phase'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "stress" -d 'Stress the vCPU hotplug of a running VM, and compare all that can be seen with what must be so'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "check" -d 'Say what this host\'s KVM can do, by trying'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "completions" -d 'Print the completions for a shell'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "man" -d 'Print the manual page of hotvisor, or of one of its commands'
complete -c hotvisor -n "__fish_hotvisor_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l kernel -d 'Kernel: a bzImage, or an ELF vmlinux with a PVH entry point; without one, the API creates the machine' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l initramfs -d 'Initial RAM file system' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l cmdline -d 'The kernel\'s command line' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l cpus -d 'vCPUs at boot, and how many the guest can ever have' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l memory -d 'Guest memory: bytes, or with K, M, G, T' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l serial -d 'First serial port; tty is standard input and output [default: tty]' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l console -d 'Virtio console: there is none' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l vsock -d 'Socket device: the guest\'s context id, and the Unix socket by which programs on the host reach those in the guest' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l api-socket -d 'Unix socket of the REST API; fd=N is a listening one that was passed on under that number' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l guest-eject -d 'What becomes of a vCPU that the guest ejects on its own account' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l operation-timeout -d 'How long a plug or an unplug may take whose request names no other time' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l dormant-timeout -d 'How long the thread of an ejected vCPU is kept for the next plug' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l shutdown-timeout -d 'How long the guest may take to power off after its button was pressed' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l seccomp -d 'What a system call comes to that Hotvisor never makes: the end of the process, a line in the kernel\'s log, nothing' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l landlock -d 'Reach no files but those that are named here: where the kernel can do it, or else not start, or not at all' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l landlock-rules -d 'Files, or all that is in a folder, that machines may be made of which clients of the API create; repeatable' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l log-file -d 'Write messages to this file instead of standard error' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l no-reboot -d 'End when the guest resets, instead of starting it again'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -l dumpable -d 'Let other processes of this user read the guest\'s memory, and the kernel write it into core files'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -s v -l verbose -d 'Say more; twice for even more'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand run" -s h -l help -d 'Print help'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand vcpus" -l api-socket -d 'Unix socket of the VM\'s API; without it, the one that HOTVISOR_SOCKET names' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand vcpus" -l json -d 'Answer in JSON, as `GET /api/v1/vcpus` does'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand vcpus" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand unplug" -l api-socket -d 'Unix socket of the VM\'s API; without it, the one that HOTVISOR_SOCKET names' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand unplug" -l timeout -d 'How long it may take, as in 2.5; then it is given up and undone [default: as the VM was told]' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand unplug" -l json -d 'Answer in JSON: with the operations as they ended, or with the problem'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand unplug" -l no-wait -d 'Do not wait for the end; the answer is the operation as it was accepted'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand unplug" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand plug" -l api-socket -d 'Unix socket of the VM\'s API; without it, the one that HOTVISOR_SOCKET names' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand plug" -l timeout -d 'How long it may take, as in 2.5; then it is given up and undone [default: as the VM was told]' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand plug" -l json -d 'Answer in JSON: with the operations as they ended, or with the problem'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand plug" -l no-wait -d 'Do not wait for the end; the answer is the operation as it was accepted'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand plug" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand resize" -l api-socket -d 'Unix socket of the VM\'s API; without it, the one that HOTVISOR_SOCKET names' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand resize" -l timeout -d 'How long it may take, as in 2.5; then it is given up and undone [default: as the VM was told]' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand resize" -l json -d 'Answer in JSON: with the operations as they ended, or with the problem'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand resize" -l no-wait -d 'Do not wait for the end; the answer is the operation as it was accepted'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand resize" -s h -l help -d 'Print help'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand operations" -l api-socket -d 'Unix socket of the VM\'s API; without it, the one that HOTVISOR_SOCKET names' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand operations" -l json -d 'Answer in JSON, as `GET /api/v1/operations` does'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand operations" -s h -l help -d 'Print help'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand wait" -l api-socket -d 'Unix socket of the VM\'s API; without it, the one that HOTVISOR_SOCKET names' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand wait" -l json -d 'Answer in JSON: with the operations as they ended, or with the problem'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand wait" -s h -l help -d 'Print help'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand cancel" -l api-socket -d 'Unix socket of the VM\'s API; without it, the one that HOTVISOR_SOCKET names' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand cancel" -l json -d 'Answer in JSON: with the operation as it is then, or with the problem'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand cancel" -s h -l help -d 'Print help'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand watch" -l api-socket -d 'Unix socket of the VM\'s API; without it, the one that HOTVISOR_SOCKET names' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand watch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand events" -l api-socket -d 'Unix socket of the VM\'s API; without it, the one that HOTVISOR_SOCKET names' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand events" -l since -d 'Begin behind this event, as far as the VM still knows those after it; 0 is all of them' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand events" -l json -d 'One line of JSON for each event: {"id":…,"event":KIND,"data":{…}}'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand events" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand timeline" -l api-socket -d 'Unix socket of the VM\'s API; without it, the one that HOTVISOR_SOCKET names' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand timeline" -l svg -d 'Write it to this file as a picture instead' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand timeline" -l plug -d 'The last plug instead'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand timeline" -l json -d 'Answer in JSON, in microseconds'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand timeline" -s h -l help -d 'Print help'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l api-socket -d 'Unix socket of the VM\'s API; without it, the one that HOTVISOR_SOCKET names' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l seed -d 'The same seed and options give the same sequence of steps [default: a random one, which is shown]' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l duration -d 'For so long, as in 30, 90s, 10m or 2h, and until the step then under way has ended [default: 60 without --cycles]' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l cycles -d 'So many steps' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l mix -d 'How often each step is done, as in plug=4,unplug=4,resize; `all` stands for all of them that are usual' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l most -d 'At most so many vCPUs at a time' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l timeout -d 'How long each operation may take, as in 2.5; a day at most' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l guest-serial -d 'Unix socket of the guest\'s serial port, with a shell on it' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l guest-command -d 'A command that runs its last argument in a shell of the guest\'s, as in "ssh root@vm"' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l guest-online -d 'Whose it is to say which CPUs the guest has online; theirs, where somebody in the guest takes some offline meanwhile' -r -f -a "ours\t''
theirs\t''"
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l allow -d 'Outcomes that are no contradiction, also where nothing accounts for them' -r -f -a "refused\t''
timed_out\t''
failed\t''"
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l tolerate -d 'A complaint of the guest\'s kernel whose first line contains this is no contradiction; may be given several times' -r
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l console -d 'File into which the guest\'s console is written' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l vmm-log -d 'What `hotvisor run --log-file` writes; its end is part of the evidence' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l report -d 'Write one page that shows latencies over time, outcomes and evidence, and needs nothing beside it' -r -F
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -l json -d 'Print the summary as one JSON document'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand stress" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand check" -l json -d 'Answer in JSON'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand man" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "run" -d 'Boot a guest and run it to its end, or wait for the API to create one'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "vcpus" -d 'Show the vCPUs of a running VM'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "unplug" -d 'Take vCPUs away from the guest'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "plug" -d 'Give vCPUs to the guest'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "resize" -d 'Plug or unplug vCPUs until there are so many'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "operations" -d 'List the operations: those that run, and the last ones that ended'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "wait" -d 'Wait for operations to end, and say how they did'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "cancel" -d 'Take an operation back, as long as the guest has not read the request'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "watch" -d 'Show the vCPUs, and show them anew whenever something changes'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "events" -d 'Print what happens to the vCPUs and the machine, as it happens'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "timeline" -d 'Draw where the time of a vCPU\'s last unplug went, phase by phase'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "stress" -d 'Stress the vCPU hotplug of a running VM, and compare all that can be seen with what must be so'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "check" -d 'Say what this host\'s KVM can do, by trying'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "completions" -d 'Print the completions for a shell'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "man" -d 'Print the manual page of hotvisor, or of one of its commands'
complete -c hotvisor -n "__fish_hotvisor_using_subcommand help; and not __fish_seen_subcommand_from run vcpus unplug plug resize operations wait cancel watch events timeline stress check completions man help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
