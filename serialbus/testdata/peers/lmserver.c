/* SPDX-License-Identifier: Apache-2.0
 *
 * A Modbus RTU server on libmodbus, which nobody here wrote. Usage: lmserver TTY BAUD UNIT. It has 400 holding
 * registers; register n holds 100+n at first. */
#include <errno.h>
#include <modbus.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	uint8_t request[MODBUS_RTU_MAX_ADU_LENGTH];

	if (argc != 4)
		return 2;
	modbus_t *bus = modbus_new_rtu(argv[1], atoi(argv[2]), 'E', 8, 1);
	modbus_mapping_t *map = modbus_mapping_new(16, 16, 400, 400);
	if (bus == NULL || map == NULL)
		return 1;
	modbus_set_slave(bus, atoi(argv[3]));
	for (int i = 0; i < 400; i++)
		map->tab_registers[i] = 100 + i;
	if (modbus_connect(bus) != 0)
		return 1;
	for (;;) {
		int length = modbus_receive(bus, request);
		if (length > 0)
			modbus_reply(bus, request, length, map);
		else if (length < 0 && errno != EMBBADCRC && errno != ETIMEDOUT)
			return 0;
	}
}
