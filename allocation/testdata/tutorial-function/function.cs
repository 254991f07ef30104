// SPDX-License-Identifier: Apache-2.0

// The function of Azure's tutorial "Use custom allocation policies", without the
// cloud around it: one request body a line in base64, one answer a line, which
// is the status and the body in base64. An exception is answered 500 by the
// Functions host, without a body.
//
// The expressions that read the request are the tutorial's own, because what
// they make of unusual requests is what the tests ask; the JSON library is the
// tutorial's too, in the version that Debian has. The rest is retold, the two
// twins as the plain objects that the SDK's TwinState is on the wire.

using System;
using System.IO;
using System.Text;
using Newtonsoft.Json;
using Newtonsoft.Json.Linq;

public static class Program
{
    public static void Main()
    {
        var output = new StreamWriter(Console.OpenStandardOutput(), new UTF8Encoding(false));
        string line;
        while ((line = Console.In.ReadLine()) != null)
        {
            int status;
            string answer;
            try
            {
                status = Answer(Convert.FromBase64String(line), out answer);
            }
            catch (Exception)
            {
                status = 500;
                answer = "";
            }
            output.Write(status + " " + Convert.ToBase64String(Encoding.UTF8.GetBytes(answer)) + "\n");
            output.Flush();
        }
    }

    static int Answer(byte[] body, out string answer)
    {
        string requestBody = new StreamReader(new MemoryStream(body)).ReadToEnd();
        dynamic data = JsonConvert.DeserializeObject(requestBody);

        string regId = data?.deviceRuntimeContext?.registrationId;
        if (regId == null)
        {
            answer = "Registration ID not provided for the device.";
            return 400;
        }
        string[] hubs = data?.linkedHubs?.ToObject<string[]>();
        if (hubs == null)
        {
            answer = "No hub group defined for the enrollment.";
            return 400;
        }
        if (regId.Contains("-contoso-tstrsd-007"))
        {
            return Assign(hubs, "-toasters-", "toasters", "toaster", "ready", "darknessSetting", "medium", out answer);
        }
        if (regId.Contains("-contoso-hpsd-088"))
        {
            return Assign(hubs, "-heatpumps-", "heat pumps", "heatpump", "on", "temperatureSetting", "65", out answer);
        }
        answer = "Unrecognized device registration.";
        return 400;
    }

    static int Assign(string[] hubs, string part, string division, string type, string state, string setting, string value, out string answer)
    {
        string chosen = null;
        foreach (string hubString in hubs)
        {
            if (hubString.Contains(part))
                chosen = hubString;
        }
        if (chosen == null)
        {
            answer = "No " + division + " hub found for the enrollment.";
            return 400;
        }
        var desired = new JObject();
        desired["state"] = state;
        desired[setting] = value;
        var tags = new JObject();
        tags["deviceType"] = type;
        var twin = new { properties = new { desired }, tags };
        answer = JsonConvert.SerializeObject(new { iotHubHostName = chosen, initialTwin = twin });
        return 200;
    }
}
