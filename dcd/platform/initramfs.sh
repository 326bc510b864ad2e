# What `dcd.platform.initramfs` puts behind the text of hook-functions of initramfs-tools, beside a copy of each
# function that it replaces, named dcd_plain_NAME. It runs in the image, with the image's sh, in hooks also under
# `set -e`. Variables that outlive a function, and functions, begin with dcd_. `add_firmware` is hook-functions'.

dcd_is_canonical()
{
	case "${1}/" in
	[!/]* | *//* | */./* | */../* | *"
"*) return 1 ;;
	esac
	return 0
}

# Whether realpath and readlink would only repeat the path of a file: it has no link, and no part to take out.
dcd_is_real()
{
	local rest at

	dcd_is_canonical "${1}" || return 1
	rest="${1#/}"
	at=
	while :; do
		at="${at}/${rest%%/*}"
		if [ -h "${at}" ]; then
			return 1
		fi
		case "${rest}" in
		*/*) rest="${rest#*/}" ;;
		*) return 0 ;;
		esac
	done
}

# Half of the modules are gathered by another process, in a directory of its own. What both gather is the same.
_call_dracut_install()
{
	local other status

	# Options filter modules; such a call takes little time.
	if [ $# -lt 20 ] || [ "${1#-}" != "${1}" ] || [ ! -h "${DESTDIR}/lib" ] || [ "${verbose:-}" = y ]
	then
		dcd_plain__call_dracut_install "$@"
		return
	fi
	other="${DESTDIR}-dcd"
	mkdir -p "${other}/usr/lib"
	cp -pP "${DESTDIR}/lib" "${other}/lib"
	(
		DESTDIR="${other}"
		dcd_dracut_install_every_other 1 "$@"
	) &
	status=0
	dcd_dracut_install_every_other 0 "$@" || status=$?
	wait $! || status=$?
	cp -al --remove-destination "${other}/." "${DESTDIR}" || status=$?
	rm -r "${other}"
	return "${status}"
}

dcd_dracut_install_every_other()
{
	local wanted number each

	wanted="${1}"
	shift
	number=0
	for each in "$@"; do
		if [ "${number}" -eq 0 ]; then
			set --
		fi
		if [ $((number % 2)) -eq "${wanted}" ]; then
			set -- "$@" "${each}"
		fi
		number=$((number + 1))
	done
	dcd_plain__call_dracut_install "$@"
}

# The names of all classes at once: the same dependencies would be looked up for each directory of modules.
auto_add_modules()
{
	dcd_gathered=
	dcd_gathering=y
	dcd_plain_auto_add_modules "$@"
	dcd_gathering=
	# shellcheck disable=SC2086
	manual_add_modules ${dcd_gathered}
}

# What is new is copied by one process a directory, and asked for its firmware by one for all.
manual_add_modules()
{
	local new

	if [ $# -eq 0 ]; then
		return 0
	fi
	if [ "${dcd_gathering:-}" = y ]; then
		dcd_gathered="${dcd_gathered} $*"
		return 0
	fi
	if [ -z "${dcd_usr+known}" ]; then
		dcd_usr=
		if [ "$(readlink -f /bin)" = /usr/bin ]; then
			dcd_usr=/usr
		fi
	fi
	new="$(dcd_new_modules "$@")"
	case "${new}" in
	*plain*)
		dcd_plain_manual_add_modules "$@"
		return
		;;
	"") return 0 ;;
	esac
	# shellcheck disable=SC2086
	dcd_copy_modules ${new}
	# shellcheck disable=SC2086
	dcd_add_firmware_of ${new}
}

# Prints the paths of the modules that the named ones need and the initramfs lacks, each once, those of a directory
# together; `plain` where one is not what it always is, or each copy is to be told.
dcd_new_modules()
{
	local kmod

	if [ "${verbose:-}" = y ]; then
		echo plain
		return
	fi
	{
		/sbin/modprobe --all --set-version="${version?}" --ignore-install --quiet --show-depends "$@" || :
		/sbin/modprobe --all --set-version="${version}" --quiet --show-depends "$@" || :
	} |
	sed -n 's/^[[:blank:]]*insmod[[:blank:]]\{1,\}\([^[:blank:]]\{1,\}\).*/\1/p' |
	LC_ALL=C sort -u |
	while read -r kmod; do
		if [ ! -f "${kmod}" ] || [ -e "${DESTDIR}/usr${kmod}" ]; then
			continue
		fi
		case "${kmod}" in
		*[][*?\\]* | *plain*) echo plain ;;
		"/lib/modules/${version}"/*)
			if dcd_is_real "${dcd_usr}${kmod}"; then
				echo "${kmod}"
			else
				echo plain
			fi
			;;
		*) echo plain ;;
		esac
	done
}

dcd_copy_modules()
{
	local kmod at to

	at=
	for kmod in "$@" /; do
		to="${kmod%/*}"
		if [ "${to}" != "${at}" ]; then
			if [ -n "${at}" ]; then
				mkdir -p "${DESTDIR}/usr${at}"
				cp -pP -t "${DESTDIR}/usr${at}" "$@" || :
			fi
			at="${to}"
			set --
		fi
		set -- "$@" "${dcd_usr}${kmod}"
	done
}

dcd_add_firmware_of()
{
	local kmod name field value firmware

	{
		modinfo -0 -k "${version}" "$@" || printf 'failed\0'
	} |
	tr '\0\n' '\n ' |
	sed -n 's/^filename:/filename /p; s/^firmware=/firmware /p; /^failed/p' |
	while read -r field value; do
		case "${field}" in
		filename)
			name="${value##*/}"
			name="${name%%.*}"
			;;
		firmware)
			# Not quoted, as in the plain function.
			# shellcheck disable=SC2086
			dcd_add_firmware "${name}" ${value}
			;;
		failed)
			for kmod in "$@"; do
				name="${kmod##*/}"
				# shellcheck disable=SC2046
				dcd_add_firmware "${name%%.*}" $(modinfo -k "${version}" -F firmware "${kmod}")
			done
			;;
		esac
	done
}

dcd_add_firmware()
{
	local name firmware

	name="${1}"
	shift
	for firmware in "$@"; do
		if add_firmware "${firmware}" || [ ! -e /proc/modules ]; then
			continue
		fi
		# Its name alone is looked for first: almost none is there, and that takes no process.
		: "${dcd_loaded:=$(cat /proc/modules "${CONFDIR}/modules" || echo dcd-unreadable)}"
		case "${dcd_loaded}" in
		*"${name}"* | *dcd-unreadable*)
			if grep -q "^${name}\\>" /proc/modules "${CONFDIR}/modules"; then
				echo "W: Possible missing firmware /lib/firmware/${firmware} for module ${name}" >&2
			fi
			;;
		esac
	done
}
