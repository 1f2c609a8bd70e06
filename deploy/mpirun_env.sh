# Settings for mpirun on one host. Source this file, then: mpirun -n N build/bin/shoal-server --config FILE
# Every line is a default: a value that is already set stays.

# Messages go through shared memory, and ranks reach mpirun over loopback: no rank listens on a network interface. mpirun
# itself still listens for its ranks on a port of every interface; where strangers reach this host, a firewall must keep
# them away from it.
export OMPI_MCA_btl="${OMPI_MCA_btl:-self,vader}"
export OMPI_MCA_oob_tcp_if_include="${OMPI_MCA_oob_tcp_if_include:-lo}"
# Containers often forbid one process to read another's memory; messages are small, so the copy costs nothing.
export OMPI_MCA_btl_vader_single_copy_mechanism="${OMPI_MCA_btl_vader_single_copy_mechanism:-none}"

# More ranks than cores is an ordinary case for tests, and threads of a rank must not share one core.
export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"

# No rank runs on alone when one has failed.
export OMPI_MCA_orte_abort_on_non_zero_status="${OMPI_MCA_orte_abort_on_non_zero_status:-1}"
# One line per error is ours to print; Open MPI repeats it in boxes.
export OMPI_MCA_orte_base_help_aggregate="${OMPI_MCA_orte_base_help_aggregate:-1}"

if [ "$(id -u)" -eq 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT="${OMPI_ALLOW_RUN_AS_ROOT:-1}"
  export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="${OMPI_ALLOW_RUN_AS_ROOT_CONFIRM:-1}"
fi
